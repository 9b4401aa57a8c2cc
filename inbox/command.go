package inbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/adminapi"
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
			reach := reachFlags{adminapi.AddReach(flags), flags.String("inbox", defaultName, "Name of the inbox")}
			cmd.AddCommand(listCommand(reach), statsCommand(reach), showCommand(reach), redeliverCommand(reach),
				deleteCommand(reach), exportCommand(reach))
			locale.Help(cmd)
		},
	})
}

// reachFlags are the flags that say where the inbox is.
type reachFlags struct {
	adminapi.Reach
	inbox *string
}

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
	limit := cmd.Flags().Int("limit", adminapi.DefaultPage, fmt.Sprintf("At most so many, up to %d", adminapi.LargestPage))
	asJSON := cmd.Flags().Bool("json", false, "Print JSON, as the admin API answers")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var messages []messageJSON
		if printed, err := reach.get(cmd, "/messages", listQuery(*state, *search, *after, *limit), *asJSON, &messages); err != nil || printed {
			return err
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
	for name, value := range map[string]string{"state": state, "search": search, "after": strconv.FormatUint(after, 10)} {
		if value != "" {
			query.Set(name, value)
		}
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
			cmp.Or(adminapi.Printable(m.Subject), "-"), adminapi.Printable(m.ID))
	}
	return table.Flush()
}

func clock(t time.Time) string { return t.Local().Format(time.DateTime) }

// short is an answer in a table.
func (a *Answer) short() string {
	switch {
	case a == nil || *a == Answer{}:
		return "-"
	case a.Status == 0:
		return adminapi.Printable(a.Error)
	case a.Error == "":
		return strconv.Itoa(a.Status)
	}
	return strconv.Itoa(a.Status) + " " + adminapi.Printable(a.Error)
}

func showCommand(reach reachFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show <seq> [--show]",
		Short: "Shows one message, masked",
		Long: `
Prints one message as JSON. Of the request, header values and the URI's query are
masked, and of the body only its size and digest are there. The beginning of the
app's last answer is printed as it is. --show prints all of it, which may be secret.`,
		Args:    cobra.ExactArgs(1),
		Example: "  caddy inbox show 12",
	}
	show := cmd.Flags().Bool("show", false, "Print the request unmasked")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		seqs, err := parseSeqs(args)
		if err != nil {
			return err
		}
		_, err = reach.get(cmd, messagePath(seqs[0]), flagged("show", *show), true, nil)
		return err
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
	chosen := addChoice(cmd, "Even messages that were delivered")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		seqs, client, err := chosen.open(reach, args, "--force is for messages that were delivered; dead ones need none")
		if err != nil {
			return err
		}
		if *chosen.allDead {
			// All of them first: one that is redelivered may be dead again, under another seq, before the last one's turn has come.
			if err := client.pages(cmd.Context(), Dead, func(page []messageJSON) error {
				for _, message := range page {
					seqs = append(seqs, message.Seq)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		done, err := each(cmd, seqs, "pending again", func(seq uint64) error {
			var answer redeliveredJSON
			err := client.ask(cmd.Context(), http.MethodPost, messagePath(seq)+"/redeliver", flagged("force", *chosen.force), &answer)
			switch {
			case err != nil, *chosen.allDead:
			case answer.Seq != seq:
				fmt.Fprintf(cmd.OutOrStdout(), "%d: pending, as %d\n", seq, answer.Seq)
			default:
				fmt.Fprintf(cmd.OutOrStdout(), "%d: pending\n", seq)
			}
			return err
		})
		switch {
		case err != nil:
			return err
		case *chosen.allDead: // what is wrong with single ones is no failure: they may have been redelivered meanwhile
			fmt.Fprintf(cmd.OutOrStdout(), "%d of %d dead messages are pending again.\n", done, len(seqs))
		case done < len(seqs):
			return fmt.Errorf("%d of %d messages could not be redelivered", len(seqs)-done, len(seqs))
		}
		return nil
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
	chosen := addChoice(cmd, "Even messages that are still to be delivered")
	before := cmd.Flags().String("before", "", "With --all-dead: only those that were given up before this time (RFC 3339)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !*chosen.allDead && cmd.Flags().Changed("before") {
			return errors.New("--before goes with --all-dead")
		}
		seqs, client, err := chosen.open(reach, args, "--force is for messages that are still to be delivered; dead ones need none")
		if err != nil {
			return err
		}
		var answer deletedJSON
		if *chosen.allDead {
			query := url.Values{"state": {string(Dead)}}
			if cmd.Flags().Changed("before") {
				query.Set("before", *before)
			}
			if err := client.ask(cmd.Context(), http.MethodDelete, "/messages", query, &answer); err != nil {
				return err
			}
			are := "messages are"
			if answer.Deleted == 1 {
				are = "message is"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d dead %s deleted.\n", answer.Deleted, are)
			return nil
		}
		done, err := each(cmd, seqs, "deleted", func(seq uint64) error {
			err := client.ask(cmd.Context(), http.MethodDelete, messagePath(seq), flagged("force", *chosen.force), &answer)
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%d: deleted\n", seq)
			}
			return err
		})
		if err == nil && done < len(seqs) {
			err = fmt.Errorf("%d of %d messages could not be deleted", len(seqs)-done, len(seqs))
		}
		return err
	}
	return cmd
}

// choice holds the flags that choose messages.
type choice struct{ force, allDead *bool }

func addChoice(cmd *cobra.Command, force string) choice {
	return choice{cmd.Flags().Bool("force", false, force), cmd.Flags().Bool("all-dead", false, "All dead messages")}
}

// open returns the chosen seqs, and a client. forced is the error for --force where it has no effect.
func (c choice) open(reach reachFlags, args []string, forced string) (seqs []uint64, client *inboxClient, err error) {
	switch {
	case *c.allDead && len(args) > 0:
		return nil, nil, errors.New("give either seqs or --all-dead")
	case *c.allDead && *c.force:
		return nil, nil, errors.New(forced)
	case !*c.allDead && len(args) == 0:
		return nil, nil, errors.New("give the seqs of messages (caddy inbox list shows them), or --all-dead")
	}
	if seqs, err = parseSeqs(args); err != nil {
		return nil, nil, err
	}
	client, err = reach.client()
	return seqs, client, err
}

// flagged is the query for a flag of the admin API.
func flagged(name string, on bool) url.Values {
	if on {
		return url.Values{name: {"1"}}
	}
	return nil
}

// each calls do for one message after the other. It goes on after a message that is refused, and stops where the store
// cannot answer.
func each(cmd *cobra.Command, seqs []uint64, soFar string, do func(seq uint64) error) (done int, err error) {
	for _, seq := range seqs {
		err := do(seq)
		refused, ok := errors.AsType[*adminapi.Refusal](err)
		switch {
		case ok && (refused.Status == http.StatusNotFound || refused.Status == http.StatusConflict):
			fmt.Fprintf(cmd.ErrOrStderr(), "%d: %s\n", seq, refused.Message)
		case err != nil:
			return done, fmt.Errorf("%d of %d messages are %s; then, at %d: %w", done, len(seqs), soFar, seq, err)
		default:
			done++
		}
	}
	return done, nil
}

// pages lists the messages of a state (empty: all), page after page.
func (c *inboxClient) pages(ctx context.Context, state State, take func(page []messageJSON) error) error {
	for after := uint64(0); ; {
		var page []messageJSON
		if err := c.ask(ctx, http.MethodGet, "/messages", listQuery(string(state), "", after, adminapi.LargestPage), &page); err != nil {
			return err
		}
		for _, message := range page {
			if message.Seq <= after {
				return errors.New("the admin API's list is out of order")
			}
			after = message.Seq
		}
		if err := take(page); err != nil || len(page) < adminapi.LargestPage {
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
		var stats inboxJSON
		if printed, err := reach.get(cmd, "", nil, *asJSON, &stats); err != nil || printed {
			return err
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

func parseSeqs(args []string) (seqs []uint64, err error) {
	for _, text := range args {
		seq, err := parseSeq(text)
		if err != nil || seq == 0 {
			return nil, fmt.Errorf("%q is not the seq of a message; caddy inbox list shows them", text)
		}
		seqs = append(seqs, seq)
	}
	return seqs, nil
}

func messagePath(seq uint64) string { return "/messages/" + strconv.FormatUint(seq, 10) }

// inboxClient calls the admin API for one inbox.
type inboxClient struct {
	*adminapi.Client
	path string
}

func (f reachFlags) client() (*inboxClient, error) {
	client, err := f.Client()
	return &inboxClient{client, "/inbox/" + url.PathEscape(*f.inbox)}, err
}

// ask requests a path below the inbox's and decodes the answer.
func (c *inboxClient) ask(ctx context.Context, method, path string, query url.Values, answer any) error {
	content, err := c.Call(ctx, method, c.path+path, query)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, answer); err != nil {
		return fmt.Errorf("reading the admin API's answer: %w", err)
	}
	return nil
}

// get requests a path below the inbox's, and decodes the answer or prints it.
func (f reachFlags) get(cmd *cobra.Command, path string, query url.Values, print bool, answer any) (printed bool, err error) {
	client, err := f.client()
	if err != nil {
		return false, err
	}
	if !print {
		return false, client.ask(cmd.Context(), http.MethodGet, path, query, answer)
	}
	content, err := client.Call(cmd.Context(), http.MethodGet, client.path+path, query)
	if err != nil {
		return false, err
	}
	return true, adminapi.WriteJSON(cmd.OutOrStdout(), content)
}
