package inbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "inbox",
		Short: "Lists, shows, redelivers, deletes and exports the messages of an inbox",
		Long: `
Looks into an inbox of the Caddy that is running, through its admin API.

Where the admin API is comes from --address, or from the given --config; otherwise
the default is assumed.`,
		CobraFunc: func(cmd *cobra.Command) {
			flags := cmd.PersistentFlags()
			reach := reachFlags{
				config:  flags.StringP("config", "c", "", "Configuration file to get the admin address from, if --address is not used"),
				adapter: flags.StringP("adapter", "a", "", "Name of config adapter to apply (when --config is used)"),
				address: flags.String("address", "", "Address of the admin API, if not the default"),
				inbox:   flags.String("inbox", defaultName, "Name of the inbox"),
			}
			cmd.AddCommand(listCommand(reach), statsCommand(reach), showCommand(reach), redeliverCommand(reach),
				deleteCommand(reach), exportCommand(reach))
			locale.Help(cmd)
		},
	})
}

// reachFlags are the flags that say where the inbox is.
type reachFlags struct{ config, adapter, address, inbox *string }

func listCommand(reach reachFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [--state pending|delivered|dead] [--search <text>] [--after <seq>] [--limit <number>] [--json]",
		Short: "Lists messages, without what is in them",
		Long: `
Lists messages in the order in which they were stored. TRIED is how many deliveries
have failed; WHEN is when a pending message is delivered next, or when another was
delivered or given up; ANSWER is the app's last; SUBJECT is the order's number, or
what else Ce-Subject said.`,
		Args:    cobra.NoArgs,
		Example: "  caddy inbox list --state dead\n  caddy inbox list --search 319420261129",
	}
	state := cmd.Flags().String("state", "", "Only messages of this state: pending, delivered or dead")
	search := cmd.Flags().String("search", "", "Only messages whose id or subject contains this, such as an order's number")
	after := cmd.Flags().Uint64("after", 0, "Only messages with a higher seq than this")
	limit := cmd.Flags().Int("limit", defaultPage, fmt.Sprintf("At most so many, up to %d", largestPage))
	asJSON := cmd.Flags().Bool("json", false, "Print JSON, as the admin API answers")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := reach.client()
		if err != nil {
			return err
		}
		content, err := client.call(cmd.Context(), http.MethodGet, "/messages", listQuery(*state, *search, *after, *limit))
		if err != nil {
			return err
		}
		if *asJSON {
			return writeJSON(cmd.OutOrStdout(), content)
		}
		var messages []messageJSON
		if err := json.Unmarshal(content, &messages); err != nil {
			return fmt.Errorf("reading the admin API's answer: %w", err)
		}
		if len(messages) == 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), "No messages.")
			return nil
		}
		if err := writeTable(cmd.OutOrStdout(), messages); err != nil {
			return err
		}
		if len(messages) == *limit {
			fmt.Fprintf(cmd.ErrOrStderr(), "There may be more: --after %d\n", messages[len(messages)-1].Seq)
		}
		return nil
	}
	return cmd
}

func listQuery(state, search string, after uint64, limit int) url.Values {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if search != "" {
		query.Set("search", search)
	}
	if state != "" {
		query.Set("state", state)
	}
	if after > 0 {
		query.Set("after", strconv.FormatUint(after, 10))
	}
	return query
}

func writeTable(w io.Writer, messages []messageJSON) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SEQ\tSTATE\tTRIED\tRECEIVED\tWHEN\tANSWER\tSUBJECT\tID")
	for _, m := range messages {
		when := "now"
		switch {
		case !m.Due.IsZero():
			when = clock(m.Due)
		case !m.Settled.IsZero():
			when = clock(m.Settled)
		}
		fmt.Fprintf(table, "%d\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", m.Seq, m.State, m.Attempts, clock(m.Received), when, m.Answer.short(),
			cmp.Or(printable(m.Subject), "-"), printable(m.ID))
	}
	return table.Flush()
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// short is an answer in a table.
func (a *Answer) short() string {
	switch {
	case a == nil || *a == Answer{}:
		return "-"
	case a.Status == 0:
		return printable(a.Error)
	case a.Error == "":
		return strconv.Itoa(a.Status)
	}
	return strconv.Itoa(a.Status) + " " + printable(a.Error)
}

// printable makes what a sender wrote harmless for a terminal and a table.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != ' ' && !unicode.IsGraphic(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

func showCommand(reach reachFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show <seq> [--show]",
		Short: "Shows one message, masked",
		Long: `
Prints one message as JSON. Of the request, header values and the URI's query are
masked, and of the body only its size and digest are there; the text of the app's
answer is masked too, for it may repeat them. --show prints all of it, which may be
secret.`,
		Args:    cobra.ExactArgs(1),
		Example: "  caddy inbox show 12",
	}
	show := cmd.Flags().Bool("show", false, "Print the request and the answer unmasked")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		seqs, err := parseSeqs(args)
		if err != nil {
			return err
		}
		client, err := reach.client()
		if err != nil {
			return err
		}
		query := url.Values{}
		if *show {
			query.Set("show", "1")
		}
		content, err := client.call(cmd.Context(), http.MethodGet, messagePath(seqs[0]), query)
		if err != nil {
			return err
		}
		return writeJSON(cmd.OutOrStdout(), content)
	}
	return cmd
}

func redeliverCommand(reach reachFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "redeliver <seq…> [--force] | --all-dead",
		Short: "Delivers messages now, dead ones again",
		Long: `
A dead message becomes pending as if new, a pending one is delivered now instead of
later. One that was delivered is delivered again with --force only: the app must
expect it.

--all-dead takes all messages that are dead when it begins.`,
		Example: "  caddy inbox redeliver 12 13\n  caddy inbox redeliver --all-dead",
	}
	force := cmd.Flags().Bool("force", false, "Even messages that were delivered")
	allDead := cmd.Flags().Bool("all-dead", false, "All dead messages")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *allDead && len(args) > 0:
			return errors.New("give either seqs or --all-dead")
		case *allDead && *force:
			return errors.New("--force is for messages that were delivered; dead ones need none")
		case !*allDead && len(args) == 0:
			return errors.New("give the seqs of messages (caddy inbox list shows them), or --all-dead")
		}
		seqs, err := parseSeqs(args)
		if err != nil {
			return err
		}
		client, err := reach.client()
		if err != nil {
			return err
		}
		if *allDead {
			if seqs, err = client.dead(cmd.Context()); err != nil {
				return err
			}
		}
		return client.redeliver(cmd, seqs, *force, *allDead)
	}
	return cmd
}

// each does something with messages one after the other. A message that it cannot be done with does not keep the others
// from it; a store that cannot answer does.
func each(cmd *cobra.Command, seqs []uint64, soFar string, do func(seq uint64) error) (done int, err error) {
	for _, seq := range seqs {
		err := do(seq)
		var refused *apiRefusal
		switch {
		case errors.As(err, &refused) && (refused.status == http.StatusNotFound || refused.status == http.StatusConflict):
			fmt.Fprintf(cmd.ErrOrStderr(), "%d: %s\n", seq, refused.message)
		case err != nil:
			return done, fmt.Errorf("%d of %d messages are %s; then, at %d: %w", done, len(seqs), soFar, seq, err)
		default:
			done++
		}
	}
	return done, nil
}

func forced(force bool) url.Values {
	if force {
		return url.Values{"force": {"1"}}
	}
	return nil
}

// redeliver redelivers messages. What is wrong with single messages is no failure where all were meant: they may have been
// redelivered meanwhile.
func (c *adminClient) redeliver(cmd *cobra.Command, seqs []uint64, force, all bool) error {
	done, err := each(cmd, seqs, "pending again", func(seq uint64) error {
		content, err := c.call(cmd.Context(), http.MethodPost, messagePath(seq)+"/redeliver", forced(force))
		if err != nil {
			return err
		}
		var answer redeliveredJSON
		if err := json.Unmarshal(content, &answer); err != nil {
			return fmt.Errorf("reading the admin API's answer: %w", err)
		}
		switch {
		case all:
		case answer.Seq != seq:
			fmt.Fprintf(cmd.OutOrStdout(), "%d: pending, as %d\n", seq, answer.Seq)
		default:
			fmt.Fprintf(cmd.OutOrStdout(), "%d: pending\n", seq)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if all {
		fmt.Fprintf(cmd.OutOrStdout(), "%d of %d dead messages are pending again.\n", done, len(seqs))
		return nil
	}
	if done < len(seqs) {
		return fmt.Errorf("%d of %d messages could not be redelivered", len(seqs)-done, len(seqs))
	}
	return nil
}

// dead lists the dead messages first, all of them: one that is redelivered may be dead again, under another seq, before
// the last one's turn has come.
func (c *adminClient) dead(ctx context.Context) (seqs []uint64, err error) {
	err = c.pages(ctx, Dead, func(page []messageJSON) error {
		for _, message := range page {
			seqs = append(seqs, message.Seq)
		}
		return nil
	})
	return seqs, err
}

// pages lists the messages of a state (empty: all), page after page.
func (c *adminClient) pages(ctx context.Context, state State, take func(page []messageJSON) error) error {
	for after := uint64(0); ; {
		content, err := c.call(ctx, http.MethodGet, "/messages", listQuery(string(state), "", after, largestPage))
		if err != nil {
			return err
		}
		var page []messageJSON
		if err := json.Unmarshal(content, &page); err != nil {
			return fmt.Errorf("reading the admin API's answer: %w", err)
		}
		for _, message := range page {
			if message.Seq <= after {
				return errors.New("the admin API's list is out of order")
			}
			after = message.Seq
		}
		if err := take(page); err != nil || len(page) < largestPage {
			return err
		}
	}
}

func statsCommand(reach reachFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats [--json]",
		Short: "Counts the messages",
		Long: `
Counts the messages of an inbox. OLDEST is when the oldest pending one was received;
BYTES is what counts against max_store.`,
		Args: cobra.NoArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "Print JSON, as the admin API answers")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := reach.client()
		if err != nil {
			return err
		}
		content, err := client.call(cmd.Context(), http.MethodGet, "", nil)
		if err != nil {
			return err
		}
		if *asJSON {
			return writeJSON(cmd.OutOrStdout(), content)
		}
		var stats inboxJSON
		if err := json.Unmarshal(content, &stats); err != nil {
			return fmt.Errorf("reading the admin API's answer: %w", err)
		}
		oldest := "-"
		if !stats.Oldest.IsZero() {
			oldest = clock(stats.Oldest)
		}
		table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "PENDING\tDELIVERED\tDEAD\tOLDEST\tBYTES")
		fmt.Fprintf(table, "%d\t%d\t%d\t%s\t%d\n", stats.Pending, stats.Delivered, stats.Dead, oldest, stats.Bytes)
		return table.Flush()
	}
	return cmd
}

func deleteCommand(reach reachFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete <seq…> [--force] | --all-dead [--before <time>]",
		Short: "Deletes messages for good",
		Long: `
Deletes messages that were delivered or given up. One that is still to be delivered
is deleted with --force only: the app never gets it. If the sender repeats what was
deleted, it is delivered as if it were new.

--all-dead deletes all messages that were given up, and with --before those that were
given up before a time. The log of Caddy says who has deleted which.`,
		Example: "  caddy inbox delete 12 13\n  caddy inbox delete --all-dead --before 2026-01-31T00:00:00+08:00",
	}
	force := cmd.Flags().Bool("force", false, "Even messages that are still to be delivered")
	allDead := cmd.Flags().Bool("all-dead", false, "All dead messages")
	before := cmd.Flags().String("before", "", "With --all-dead: only those that were given up before this time (RFC 3339)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *allDead && len(args) > 0:
			return errors.New("give either seqs or --all-dead")
		case *allDead && *force:
			return errors.New("--force is for messages that are still to be delivered; dead ones need none")
		case !*allDead && cmd.Flags().Changed("before"):
			return errors.New("--before goes with --all-dead")
		case !*allDead && len(args) == 0:
			return errors.New("give the seqs of messages (caddy inbox list shows them), or --all-dead")
		}
		seqs, err := parseSeqs(args)
		if err != nil {
			return err
		}
		client, err := reach.client()
		if err != nil {
			return err
		}
		if !*allDead {
			return client.delete(cmd, seqs, *force)
		}
		query := url.Values{"state": {string(Dead)}}
		if cmd.Flags().Changed("before") {
			query.Set("before", *before)
		}
		content, err := client.call(cmd.Context(), http.MethodDelete, "/messages", query)
		if err != nil {
			return err
		}
		var answer deletedJSON
		if err := json.Unmarshal(content, &answer); err != nil {
			return fmt.Errorf("reading the admin API's answer: %w", err)
		}
		if answer.Deleted == 1 {
			fmt.Fprintln(cmd.OutOrStdout(), "1 dead message is deleted.")
		} else {
			fmt.Fprintf(cmd.OutOrStdout(), "%d dead messages are deleted.\n", answer.Deleted)
		}
		return nil
	}
	return cmd
}

func (c *adminClient) delete(cmd *cobra.Command, seqs []uint64, force bool) error {
	done, err := each(cmd, seqs, "deleted", func(seq uint64) error {
		if _, err := c.call(cmd.Context(), http.MethodDelete, messagePath(seq), forced(force)); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%d: deleted\n", seq)
		return nil
	})
	if err == nil && done < len(seqs) {
		err = fmt.Errorf("%d of %d messages could not be deleted", len(seqs)-done, len(seqs))
	}
	return err
}

func parseSeqs(args []string) (seqs []uint64, err error) {
	for _, text := range args {
		seq, err := strconv.ParseUint(text, 10, 64)
		if err != nil || seq == 0 {
			return nil, fmt.Errorf("%q is not the seq of a message; caddy inbox list shows them", text)
		}
		seqs = append(seqs, seq)
	}
	return seqs, nil
}

func messagePath(seq uint64) string { return "/messages/" + strconv.FormatUint(seq, 10) }

func writeJSON(w io.Writer, content []byte) error {
	var indented bytes.Buffer
	if err := json.Indent(&indented, content, "", "  "); err != nil {
		return fmt.Errorf("reading the admin API's answer: %w", err)
	}
	_, err := fmt.Fprintln(w, escaped(strings.TrimSpace(indented.String())))
	return err
}

// escaped writes what would do something to a terminal, such as C1 controls and those that turn the direction of text,
// as JSON's escapes: all of it stands in strings.
func escaped(document string) string {
	var b strings.Builder
	b.Grow(len(document))
	for _, r := range document {
		if r < 0x7f || unicode.IsGraphic(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// adminClient calls the admin API for one inbox. It is not caddycmd.AdminAPIRequest because that makes a connection for
// each call and keeps it, waits for ever, and returns a refusal as text only.
type adminClient struct {
	address, origin, path string
	http                  http.Client
}

const (
	commandPatience = time.Minute // for one call
	answerLimit     = 64 << 20    // bytes
)

func (f reachFlags) client() (*adminClient, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(*f.address, nil, *f.config, *f.adapter)
	if err != nil {
		return nil, fmt.Errorf("finding the admin API's address: %w", err)
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil || parsed.PortRangeSize() > 1 {
		return nil, fmt.Errorf("%q is not the address of an admin API", address)
	}
	c := &adminClient{address: address, origin: "http://" + parsed.JoinHostPort(0), path: "/inbox/" + url.PathEscape(*f.inbox)}
	network, target := parsed.Network, parsed.JoinHostPort(0)
	if parsed.IsUnixNetwork() {
		c.origin = "http://127.0.0.1"           // the Host that Caddy takes from a socket
		target, _, _ = strings.Cut(target, "|") // the socket's permissions, which a config may have there
	}
	c.http = http.Client{Timeout: commandPatience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, target)
		},
	}}
	return c, nil
}

// apiRefusal is what the admin API answered instead of what was asked for.
type apiRefusal struct {
	status  int
	message string
}

func (e *apiRefusal) Error() string { return e.message }

// call returns the answer of a path under the inbox's.
func (c *adminClient) call(ctx context.Context, method, path string, query url.Values) ([]byte, error) {
	if ctx == nil { // cobra's, when it was executed without one
		ctx = context.Background()
	}
	target := c.origin + c.path + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(c.address, "unix") {
		request.Header.Set("Origin", c.origin) // as Caddy's own commands, for enforce_origin
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("the admin API at %s does not answer; is Caddy running, and is --address or --config right? %w", c.address, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, answerLimit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the admin API's answer: %w", err)
	}
	if len(content) > answerLimit {
		return nil, fmt.Errorf("the admin API's answer is larger than %d MiB; ask it with curl: %s", answerLimit>>20, target)
	}
	if response.StatusCode == http.StatusOK {
		return content, nil
	}
	refusal := &apiRefusal{response.StatusCode, fmt.Sprintf("the admin API at %s answered %s", c.address, response.Status)}
	var answer struct {
		Error string `json:"error"`
	}
	switch {
	case json.Unmarshal(content, &answer) == nil && answer.Error != "":
		refusal.message = printable(answer.Error)
	case response.StatusCode == http.StatusNotFound:
		refusal.message += "; is it a Caddy with the inbox?"
	}
	return nil, refusal
}
