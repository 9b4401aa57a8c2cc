package inbox

import (
	"bytes"
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
		Short: "Lists, shows and redelivers the messages of an inbox",
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
			cmd.AddCommand(listCommand(reach), showCommand(reach), redeliverCommand(reach))
			locale.Help(cmd)
		},
	})
}

// reachFlags are the flags that say where the inbox is.
type reachFlags struct{ config, adapter, address, inbox *string }

func listCommand(reach reachFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [--state pending|delivered|dead] [--after <seq>] [--limit <number>] [--json]",
		Short: "Lists messages, without what is in them",
		Long: `
Lists messages in the order in which they were stored. TRIED is how many deliveries
have failed; WHEN is when a pending message is delivered next, or when another was
delivered or given up; ANSWER is the app's last.`,
		Args:    cobra.NoArgs,
		Example: "  caddy inbox list --state dead",
	}
	state := cmd.Flags().String("state", "", "Only messages of this state: pending, delivered or dead")
	after := cmd.Flags().Uint64("after", 0, "Only messages with a higher seq than this")
	limit := cmd.Flags().Int("limit", defaultPage, fmt.Sprintf("At most so many, up to %d", largestPage))
	asJSON := cmd.Flags().Bool("json", false, "Print JSON, as the admin API answers")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := reach.client()
		if err != nil {
			return err
		}
		content, err := client.call(cmd.Context(), http.MethodGet, "/messages", listQuery(*state, *after, *limit))
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

func listQuery(state string, after uint64, limit int) url.Values {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
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
	fmt.Fprintln(table, "SEQ\tSTATE\tTRIED\tRECEIVED\tWHEN\tANSWER\tID")
	for _, m := range messages {
		when := "now"
		switch {
		case !m.Due.IsZero():
			when = clock(m.Due)
		case !m.Settled.IsZero():
			when = clock(m.Settled)
		}
		fmt.Fprintf(table, "%d\t%s\t%d\t%s\t%s\t%s\t%s\n", m.Seq, m.State, m.Attempts, clock(m.Received), when, m.Answer.short(), printable(m.ID))
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

// redeliver redelivers messages one after the other. A message that cannot be does not keep the others from it; a store
// that cannot answer does. What is wrong with single messages is no failure where all were meant: they may have been
// redelivered meanwhile.
func (c *adminClient) redeliver(cmd *cobra.Command, seqs []uint64, force, all bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "1")
	}
	done := 0
	for _, seq := range seqs {
		content, err := c.call(cmd.Context(), http.MethodPost, messagePath(seq)+"/redeliver", query)
		var answer redeliveredJSON
		if err == nil {
			if err := json.Unmarshal(content, &answer); err != nil {
				return fmt.Errorf("reading the admin API's answer: %w", err)
			}
		}
		var refused *apiRefusal
		switch {
		case errors.As(err, &refused) && (refused.status == http.StatusNotFound || refused.status == http.StatusConflict):
			fmt.Fprintf(cmd.ErrOrStderr(), "%d: %s\n", seq, refused.message)
			continue
		case err != nil:
			return fmt.Errorf("%d of %d messages are pending again; then, at %d: %w", done, len(seqs), seq, err)
		}
		done++
		switch {
		case all:
		case answer.Seq != seq:
			fmt.Fprintf(cmd.OutOrStdout(), "%d: pending, as %d\n", seq, answer.Seq)
		default:
			fmt.Fprintf(cmd.OutOrStdout(), "%d: pending\n", seq)
		}
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
	for after := uint64(0); ; {
		content, err := c.call(ctx, http.MethodGet, "/messages", listQuery(string(Dead), after, largestPage))
		if err != nil {
			return nil, err
		}
		var page []messageJSON
		if err := json.Unmarshal(content, &page); err != nil {
			return nil, fmt.Errorf("reading the admin API's answer: %w", err)
		}
		for _, message := range page {
			if message.Seq <= after {
				return nil, errors.New("the admin API's list is out of order")
			}
			after = message.Seq
			seqs = append(seqs, after)
		}
		if len(page) < largestPage {
			return seqs, nil
		}
	}
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
