package chinaums

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/adminapi"
	"github.com/caddy-chinaums/caddy-chinaums/internal/dev"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// watchReach are the flags that say where the watch is.
type watchReach struct {
	adminapi.Reach
	platform, merchant *string
}

func addWatchReach(cmd *cobra.Command) watchReach {
	reach := addAdmin(cmd)
	reach.merchant = cmd.Flags().String("merchant", "", "Only orders of this merchant")
	return reach
}

// addAdmin adds the flags that say where the admin API is.
func addAdmin(cmd *cobra.Command) watchReach {
	flags := cmd.Flags()
	return watchReach{Reach: adminapi.AddReach(flags), platform: flags.String("platform", dev.ChinaUMS, "chinaums or shouqianba")}
}

func (r watchReach) call(cmd *cobra.Command, method, path string, query url.Values) ([]byte, error) {
	if *r.platform != dev.ChinaUMS && *r.platform != dev.Shouqianba {
		return nil, locale.Errorf("--platform: %q is neither chinaums nor shouqianba", *r.platform)
	}
	client, err := r.Client()
	if err != nil {
		return nil, err
	}
	return client.Call(cmd.Context(), method, "/"+*r.platform+path, query)
}

// list gets orders.
func (r watchReach) list(cmd *cobra.Command, query url.Values) (content []byte, orders []watched.Record, err error) {
	if *r.merchant != "" {
		query.Set("merchant", *r.merchant)
	}
	if content, err = r.call(cmd, http.MethodGet, "/orders", query); err == nil {
		err = json.Unmarshal(content, &orders)
	}
	return content, orders, err
}

// find finds the orders that have a number and, where there is none, the bills that have it as their billNo, or else those with a
// refund of this number.
func (r watchReach) find(cmd *cobra.Command, number string) (found []watched.Record, err error) {
	const page = 1000 // as many as the admin API gives at once
	var bills, refunded []watched.Record
	query := url.Values{"search": {number}, "limit": {strconv.Itoa(page)}}
	for {
		_, orders, err := r.list(cmd, query)
		if err != nil {
			return nil, err
		}
		for _, o := range orders {
			switch {
			case o.Number == number:
				found = append(found, o)
			case strings.HasPrefix(o.Number, number+"@"):
				bills = append(bills, o)
			case slices.ContainsFunc(o.Order.Calls, func(c *watch.Track) bool { return c.Number == number || c.Alias == number }):
				refunded = append(refunded, o)
			}
		}
		if len(orders) < page {
			break
		}
		last := orders[page-1]
		query.Set("after", last.Merchant+"/"+last.Number)
	}
	if len(found) == 0 {
		found = bills
	}
	if len(found) == 0 {
		found = refunded
	}
	return found, nil
}

// one calls a path of the one order that has a number, or a refund of this number, and prints the answer.
func (r watchReach) one(cmd *cobra.Command, method, number, path string) error {
	found, err := r.find(cmd, number)
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return locale.Errorf("the watch knows no order and no refund of the number %q", number)
	case len(found) > 1 && found[0].Number == number:
		return locale.Errorf("several merchants have an order of the number %q; say which with --merchant", number)
	case len(found) > 1 && strings.HasPrefix(found[0].Number, number+"@"):
		return locale.Errorf("several bills have the number %q; give it with its date, like <billNo>@<billDate>, or say which merchant with --merchant", number)
	case len(found) > 1:
		return locale.Errorf("several orders have a refund of the number %q; give the order's own number", number)
	}
	content, err := r.call(cmd, method, "/orders/"+url.PathEscape(found[0].Merchant)+"/"+url.PathEscape(found[0].Number)+path, nil)
	if err != nil {
		return err
	}
	return adminapi.WriteJSON(cmd.OutOrStdout(), content)
}

func ordersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "orders [--state <state>] [--merchant <name>] [--search <text>] [--after <merchant/number>] [--limit <number>] [--json]",
		Short: "Lists the orders that the watch knows",
		Long: `
Lists orders by merchant and number, as the watch of the running Caddy knows them.
--state stuck shows where a person has to look. Amounts are in fen.`,
		Args:    cobra.NoArgs,
		Example: "  caddy chinaums orders --state unresolved",
	}
	reach := addWatchReach(cmd)
	state := cmd.Flags().String("state", "", "Only orders in this state, or with a refund in it: open, paid, unresolved, stuck and so on")
	search := cmd.Flags().String("search", "", "Only orders with a number, their own or a refund's, that contains this")
	after := cmd.Flags().String("after", "", "Only orders behind this one, given as merchant/number")
	limit := cmd.Flags().Int("limit", 100, "At most so many, up to 1000")
	asJSON := cmd.Flags().Bool("json", false, "Print JSON, as the admin API answers")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query := url.Values{"limit": {strconv.Itoa(*limit)}}
		for name, value := range map[string]string{"state": *state, "search": *search, "after": *after} {
			if value != "" {
				query.Set(name, value)
			}
		}
		content, orders, err := reach.list(cmd, query)
		if err != nil {
			return err
		}
		if *asJSON {
			_, err = cmd.OutOrStdout().Write(content)
			return err
		}
		table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "MERCHANT\tORDER\tSTATE\tORDERED\tPAID\tREFUNDS\tCHANGED")
		for _, o := range orders {
			refunds := ""
			for _, c := range o.Order.Calls {
				refunds += c.Number + "=" + string(c.State) + " "
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%s\t%s\n", o.Merchant, adminapi.Printable(o.Number), o.Order.State, o.Order.Amount, o.Order.Paid,
				adminapi.Printable(refunds), time.UnixMilli(o.Order.Changed).Local().Format(time.DateTime))
		}
		return table.Flush()
	}
	return cmd
}

// aboutOne makes a command about one order.
func aboutOne(use, short, long, method, path string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use + " <number> [--merchant <name>]", Short: short, Long: long, Args: cobra.ExactArgs(1),
		Example: "  caddy chinaums " + use + " 10172026112800000001",
	}
	reach := addWatchReach(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return reach.one(cmd, method, args[0], path) }
	return cmd
}

func orderCommand() *cobra.Command {
	return aboutOne("order", "Shows an order with its timeline", `
Prints as JSON what the watch knows of an order: what was sent, answered, asked,
notified and told. The number may be a refund's.`, http.MethodGet, "")
}

func queryCommand() *cobra.Command {
	return aboutOne("query", "Queries an order at the platform now", `
Queries an order, and each of its refunds whose end is not known, and prints what
the watch knows then. What it finds is told to the app.`, http.MethodPost, "/query")
}

func resendCommand() *cobra.Command {
	return aboutOne("resend", "Tells the app of an order again", `
Queries an order and its refunds, and tells the app what the platform says, with
the same ids, even if it has them: the app must expect it.`, http.MethodPost, "/resend")
}

func reconcileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reconcile [--day <day>] [--csv]",
		Short: "Compares what was ordered, told and taken on a day",
		Long: `
Prints the orders whose payment became known on a day in Shanghai, and the refunds
that were sent on it and are unresolved, each with a verdict. It is no settlement
statement.`,
		Args:    cobra.NoArgs,
		Example: "  caddy chinaums reconcile --day 2026-11-28 --csv > 2026-11-28.csv",
	}
	reach := addAdmin(cmd)
	day := cmd.Flags().String("day", "", "The day, like 2026-11-28; yesterday if it is not given")
	asCSV := cmd.Flags().Bool("csv", false, "Print CSV, which a spreadsheet opens")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *day == "" {
			*day = time.Now().In(beijing).AddDate(0, 0, -1).Format(time.DateOnly)
		}
		query := url.Values{"day": {*day}}
		if *asCSV {
			query.Set("format", "csv")
		}
		content, err := reach.call(cmd, http.MethodGet, "/reconcile", query)
		if err == nil {
			_, err = cmd.OutOrStdout().Write(content)
		}
		return err
	}
	return cmd
}
