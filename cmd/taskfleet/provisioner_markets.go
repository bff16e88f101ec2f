package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A market is a place to buy workers, as commands show it.
type market = provisioner.MarketListMarket

// perTask is what an hour costs of capacity for one task, for what the machine
// is worth: markets are compared by it.
func perTask(price *float64, capacity int64, utility *float64) *float64 {
	if price == nil {
		return nil
	}
	worth := float64(max(capacity, 1))
	if utility != nil && *utility > 0 {
		worth *= *utility
	}
	x := *price / worth
	return &x
}

// byPrice orders what is known of prices, the best first and the unknown last.
func byPrice(a, b *float64) int {
	unknown := math.Inf(1)
	if a == nil {
		a = &unknown
	}
	if b == nil {
		b = &unknown
	}
	return cmp.Compare(*a, *b)
}

// marketsOf are the markets of a pool, the best offer first.
func marketsOf(ctx context.Context, s *session, pool string) ([]market, error) {
	l, err := provisioner.New(s.core).ListMarkets(ctx, pool)
	if err != nil {
		return nil, aboutPool(err, pool)
	}
	list := append([]market{}, l.Markets...)
	slices.SortStableFunc(list, func(a, b market) int {
		return cmp.Or(byPrice(perTask(a.Price, a.Capacity, a.Utility), perTask(b.Price, b.Capacity, b.Utility)), cmp.Compare(a.Market, b.Market))
	})
	return list, nil
}

func newMarketsCommand() *cobra.Command {
	var asJSON, closed bool
	cmd := &cobra.Command{
		Use: "markets POOL", Short: "Show where the workers of a pool can be bought",
		Long: `Shows where the workers of a pool can be bought: a zone, a type of machine and a way of paying for it. A market that
refused is closed for a while, which doubles each time, and then probed with one worker. LOST/H is how many of the
machines bought there are taken away in an hour. What was bought and refused counts from the start of the server. The
best offer comes first; taskfleet provisioner prices compares them.`,
		Example: "  taskfleet provisioner markets aws/build\n  taskfleet provisioner markets aws/build --closed",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completePools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			list, err := marketsOf(ctx, s, args[0])
			if err != nil {
				return err
			}
			if closed {
				list = slices.DeleteFunc(list, func(m market) bool { return m.State == "open" })
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printMarkets(cmd.OutOrStdout(), args[0], list, closed, timestamp.Now())
		}),
	}
	cmd.Flags().BoolVar(&closed, "closed", false, "only those that are not open")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printMarkets(w io.Writer, pool string, list []market, closed bool, now timestamp.Time) error {
	if len(list) == 0 {
		text := "%s buys its workers in no markets\n"
		if closed {
			text = "%s has no market that is not open\n"
		}
		_, err := fmt.Fprintf(w, text, pool)
		return err
	}
	t := table{head: []string{"MARKET", "STATE", "$/HOUR", "BOUGHT", "REFUSED", "LOST/H"}}
	for _, m := range list {
		state := m.State
		if m.Until > now {
			state += " " + took(m.Until.Sub(now))
		}
		t.add(m.Market, state, moneyOr(m.Price), number(m.Launched), number(m.Refused), amount(m.Interruptions))
	}
	if err := t.print(w); err != nil {
		return err
	}
	for i, c := range closures(list) {
		if i == 0 {
			fmt.Fprintln(w, "\nNot open:")
		}
		fmt.Fprint(w, bullet(some(c.markets, 4)+": "+c.reason, lineWidth(w)))
	}
	return nil
}

// A closure is why some markets are not open.
type closure struct {
	reason  string
	markets []string
	until   timestamp.Time // when the first of them is tried again; 0: not known
}

// closures are why markets are not open, in the order of the list.
func closures(list []market) (all []closure) {
	for _, m := range list {
		if m.State == "open" {
			continue
		}
		i := slices.IndexFunc(all, func(c closure) bool { return c.reason == m.Reason })
		if i < 0 {
			i, all = len(all), append(all, closure{reason: m.Reason})
		}
		c := &all[i]
		c.markets = append(c.markets, m.Market)
		if c.until.IsZero() || !m.Until.IsZero() && m.Until < c.until {
			c.until = m.Until
		}
	}
	return all
}

// some lists the first few of many.
func some(list []string, n int) string {
	if len(list) <= n {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:n], ", "), len(list)-n)
}

// A price is a market's in one pool.
type price struct {
	WorkerPoolID string   `json:"workerPoolId"`
	Market       string   `json:"market"`
	State        string   `json:"state"`
	Capacity     int64    `json:"capacity"`
	Utility      *float64 `json:"utility,omitempty"`
	Price        *float64 `json:"price,omitempty"`   // dollars an hour
	PerTask      *float64 `json:"perTask,omitempty"` // likewise, for one task and what the machine is worth
	Saving       *float64 `json:"saving,omitempty"`  // fraction of the price on demand, of spot
}

func newPricesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "prices [POOL...]", Short: "Show what workers would cost now, the best offer first",
		Long: `Shows what the workers of some pools, or of all, would cost in each market, in dollars an hour, the best offer first.
TASKS is how many a worker runs at once, UTILITY what its machine is worth. $/TASK is what markets are compared by: the
price of an hour, divided by both. SAVES is how much less spot costs than the same machine on demand.`,
		Example:           "  taskfleet provisioner prices aws/build\n  taskfleet provisioner prices --json | jq '.[0]'",
		ValidArgsFunction: completeAnyPools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			ids, err := poolsOrAll(ctx, s, args)
			if err != nil {
				return err
			}
			list := []price{}
			for _, id := range ids {
				markets, err := marketsOf(ctx, s, id)
				switch {
				case err != nil && len(ids) > 1: // the prices of the others can be told
					fmt.Fprintf(cmd.ErrOrStderr(), "taskfleet: no prices of %s: %v\n", id, err)
				case err != nil:
					return err
				}
				list = append(list, pricesOf(id, markets)...)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printPrices(cmd.OutOrStdout(), list, len(ids) > 1)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func pricesOf(pool string, markets []market) (list []price) {
	onDemand := map[string]float64{}
	for _, m := range markets {
		if what, is := strings.CutSuffix(m.Market, "/on-demand"); is && m.Price != nil {
			onDemand[what] = *m.Price
		}
	}
	for _, m := range markets {
		p := price{
			WorkerPoolID: pool, Market: m.Market, State: m.State, Capacity: m.Capacity, Utility: m.Utility, Price: m.Price,
			PerTask: perTask(m.Price, m.Capacity, m.Utility),
		}
		if what, is := strings.CutSuffix(m.Market, "/spot"); is && m.Price != nil && onDemand[what] > 0 {
			x := 1 - *m.Price/onDemand[what]
			p.Saving = &x
		}
		list = append(list, p)
	}
	return list
}

func printPrices(w io.Writer, list []price, pools bool) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "there are no markets to buy workers in")
		return err
	}
	t := table{head: []string{"MARKET", "$/HOUR", "$/TASK", "SAVES", "TASKS", "UTILITY"}}
	if pools {
		t.head = slices.Insert(t.head, 0, "POOL")
	}
	states := slices.ContainsFunc(list, func(p price) bool { return p.State != "open" })
	if states {
		t.head = append(t.head, "STATE")
	}
	for _, p := range list {
		saves := "-"
		if p.Saving != nil {
			saves = fmt.Sprintf("%.0f%%", 100**p.Saving)
		}
		row := []string{p.Market, moneyOr(p.Price), moneyOr(p.PerTask), saves, number(p.Capacity), utility(p.Utility)}
		if pools {
			row = slices.Insert(row, 0, p.WorkerPoolID)
		}
		if states {
			row = append(row, p.State)
		}
		t.add(row...)
	}
	return t.print(w)
}

func utility(u *float64) string {
	if u == nil {
		return "-"
	}
	return amount(*u)
}

func newPreviewCommand() *cobra.Command {
	var source poolSource
	var asJSON, request bool
	var only string
	cmd := &cobra.Command{
		Use: "preview [POOL]", Short: "Show all that a definition can turn into",
		Long: `Shows all that a definition, that of a file or that of a pool there is, can turn into: each combination of place, type
of machine and way of paying, with what it costs now as far as that is known. --request shows the request that would be
sent for each of them. Nothing is stored or started.`,
		Example: `  taskfleet provisioner preview -f pool.yml
  taskfleet provisioner preview aws/build --request --market us-east-1a/c7i.large/spot`,
		Args: source.either, ValidArgsFunction: completePools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			p, err := source.find(ctx, s, args)
			if err != nil {
				return err
			}
			x, err := provisioner.New(s.core).PreviewWorkerPool(ctx, p.ID, trial(&p.Definition))
			if err != nil {
				return err
			}
			prices := map[string]*float64{}
			// Those of a pool that is not there, or may not be seen, are not known.
			if l, err := provisioner.New(s.core).ListMarkets(ctx, p.ID); err == nil {
				for _, m := range l.Markets {
					prices[m.Market] = m.Price
				}
			} else if !client.IsNotFound(err) && !forbidden(err) {
				return err
			}
			specs := slices.DeleteFunc(x.Specs, func(c provisioner.PreviewSpec) bool { return !strings.Contains(c.Market, only) })
			out := cmd.OutOrStdout()
			switch {
			case asJSON:
				return printJSON(out, specs)
			case len(specs) == 0 && only != "":
				return fmt.Errorf("none of the %s has a market with %q in its name; leave --market out to see them", count(len(x.Specs), "combination"), only)
			case request:
				return printRequests(out, specs)
			}
			return printSpecs(out, specs, prices)
		}),
	}
	source.add(cmd)
	cmd.Flags().BoolVar(&request, "request", false, "show the requests, in JSON")
	cmd.Flags().StringVar(&only, "market", "", "only markets with this in their name")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printSpecs(w io.Writer, specs []provisioner.PreviewSpec, prices map[string]*float64) error {
	configs := map[string][]provisioner.PreviewSpec{}
	var order []string
	for _, c := range specs {
		if configs[c.LaunchConfigID] == nil {
			order = append(order, c.LaunchConfigID)
		}
		configs[c.LaunchConfigID] = append(configs[c.LaunchConfigID], c)
	}
	unknown := 0
	for i, id := range order {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s\n", brushFor(w).paint(bold, "launch configuration "+id))
		t := table{head: []string{"MARKET", "TASKS", "UTILITY", "$/HOUR", "$/TASK"}}
		for _, c := range configs[id] {
			price := prices[c.Market]
			if price == nil {
				unknown++
			}
			t.add(c.Market, number(c.Capacity), utility(c.Utility), moneyOr(price), moneyOr(perTask(price, c.Capacity, c.Utility)))
		}
		if err := t.print(w); err != nil {
			return err
		}
	}
	text := count(len(specs), "combination")
	if unknown > 0 && unknown < len(specs) || unknown > 0 && strings.Contains(specs[0].Market, "/") {
		text += "; prices are read for the markets of pools that there are"
	}
	_, err := fmt.Fprintf(w, "\n%s\n", text)
	return err
}

func printRequests(w io.Writer, specs []provisioner.PreviewSpec) error {
	for i, c := range specs {
		if i > 0 {
			fmt.Fprintln(w)
		}
		var text bytes.Buffer
		if err := json.Indent(&text, c.Request, "", "  "); err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n%s\n", brushFor(w).paint(bold, "# "+c.Market+", launch configuration "+c.LaunchConfigID), text.String())
	}
	return nil
}
