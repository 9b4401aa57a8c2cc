//go:build linux

// Command bench measures this plugin against every other way in which its users do the same job, on one machine and by
// turns: plain Caddy, nginx, nginx with njs or Lua, and PHP-FPM with the code of an SDK. `bench/run.sh` builds it and Caddy,
// and runs it; RESULTS.md is what it has written last.
//
// Three programs take part. The load generator is this process: one thread, one epoll. The far end, which is the platform
// and the merchant's app, is a second process of this program. Between them is the peer, whose CPU time is read from the
// kernel, with that of all its processes. So what the load and the far end cost is in nobody's figure.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// upstreamWord as the first argument makes this program the far end.
const upstreamWord = "upstream"

func init() {
	// Programs that are started here end with the thread that started them: with this one, the process's own.
	runtime.LockOSThread()
}

func main() {
	var err error
	if len(os.Args) == 3 && os.Args[1] == upstreamWord {
		err = runUpstream(os.Args[2])
	} else {
		err = runBench(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parts are what can be measured on its own.
var parts = []string{"compare", "pairs", "stale", "growth", "memory"}

func runBench(arguments []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	caddy := flags.String("caddy", "", "Caddy with the plugin; it is the plain Caddy too")
	out := flags.String("out", ".", "directory to write RESULTS.md, results.json and the plots into")
	short := flags.Bool("short", false, "everything once, for a moment: a smoke test, no measurement")
	only := flags.String("only", strings.Join(parts, ","), "what to measure")
	commit := flags.String("commit", "", "what was measured, for the report")
	from := flags.String("from", "", "make the report of this results.json anew, and measure nothing")
	against := flags.String("against", "", "another Caddy with the plugin: -only against compares the two")
	rounds := flags.Int("rounds", 0, "rounds of the comparison, instead of the plan's")
	extra := flags.String("benchmarks", "", "output of go test -bench whose tables the report is to have too")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil { //nolint:gosec // a report for everybody; now, and not after twenty minutes
		return err
	}
	var measured results
	var failure error
	if *from != "" {
		content, err := os.ReadFile(*from)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(content, &measured); err != nil {
			return fmt.Errorf("%s: %w", *from, err)
		}
	} else {
		chosen := fullPlan
		if *short {
			chosen = shortPlan
		}
		if *rounds > 0 {
			chosen.Rounds, chosen.PairRounds, chosen.GrowRounds = *rounds, *rounds, *rounds
		}
		if *caddy == "" {
			return errors.New("-caddy: which?")
		}
		measured = results{Plan: chosen, Missing: make(map[string]string), Ways: make(map[string]map[string]*figures)}
		if failure = measure(&measured, *caddy, *against, strings.Split(*only, ",")); failure != nil {
			measured.Machine.Failure = failure.Error() // what there is so far is worth keeping
		}
		measured.Machine.Commit, measured.Machine.Short = *commit, *short
	}
	if *extra != "" {
		content, err := os.ReadFile(*extra)
		if err != nil {
			return err
		}
		measured.Benchmarks = parseBenchmarks(string(content))
	}
	if err := errors.Join(failure, writeReport(&measured, *out)); err != nil {
		return err
	}
	fmt.Println("written:", filepath.Join(*out, "RESULTS.md"))
	return nil
}

// measure measures the chosen parts.
func measure(measured *results, caddy, against string, chosen []string) error {
	scratch, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	if err := os.Chmod(scratch, 0o755); err != nil { //nolint:gosec // nginx's workers and PHP read it
		return err
	}
	b := &bench{plan: measured.Plan, tools: findTools(scratch), results: measured, progress: os.Stderr}
	if b.tools.caddy, err = filepath.Abs(caddy); err != nil {
		return err
	}
	if b.tools.against, err = filepath.Abs(against); err != nil {
		return err
	}
	measured.Machine = describeMachine(b.tools)
	measured.Machine.Date = time.Now().UTC().Format(time.DateTime) + " UTC"

	// Everything that was started ends before the program does.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	defer b.close()
	go func() {
		<-interrupted
		b.stop.Store(true)
	}()
	if b.upstream, b.tools.platform, err = startUpstream(scratch); err != nil {
		return err
	}
	if err := b.openAll(); err != nil {
		return err
	}
	for _, part := range chosen {
		var steps []func() error
		switch part {
		case "compare":
			for _, way := range ways {
				steps = append(steps, func() error { return b.compare(way) })
			}
		case "pairs":
			for _, p := range pairs {
				steps = append(steps, func() error { return b.pair(p.way, b.sites[p.floor], b.sites[p.other], p.large, p.paced) })
			}
		case "stale":
			steps = append(steps, b.stale)
		case "growth":
			steps = append(steps, b.growth)
		case "memory":
			steps = append(steps, b.memory)
		case "against":
			steps = append(steps, b.against)
		default:
			return fmt.Errorf("-only: %q is none of %s", part, strings.Join(parts, ", "))
		}
		before, ok := b.usage()
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
		if after, too := b.usage(); (part == "compare" || part == "pairs") && ok && too {
			others, steal := after.since(before)
			measured.Machine.Others, measured.Machine.Steal = max(measured.Machine.Others, others), max(measured.Machine.Steal, steal)
		}
	}
	return nil
}

// close ends all that was started.
func (b *bench) close() {
	for _, s := range b.sites {
		s.close()
	}
	if b.upstream != nil {
		_ = b.upstream.in.Close()
		b.upstream.process.stop()
	}
}
