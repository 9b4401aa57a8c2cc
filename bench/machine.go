//go:build linux

package main

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// machine says where and when was measured; nothing that tells whose machine it is.
type machine struct {
	Date, Commit string
	Short        bool
	Failure      string // why the run ended before its end
	Cores        int
	CPU, Kernel  string
	Memory       int64 // bytes
	Versions     []string
	Others       float64 // share of the CPU time that other programs took while the peers were compared
	Steal        float64 // share that the host of a virtual machine kept back
}

// ticks are the kernel's counts of CPU time since the start.
type ticks struct{ busy, steal, all float64 }

// parseTicks reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
func parseTicks(content string) (ticks, bool) {
	first, _, _ := strings.Cut(content, "\n")
	words := strings.Fields(first)
	if len(words) < 9 || words[0] != "cpu" {
		return ticks{}, false
	}
	var t ticks
	for i, word := range words[1:9] {
		value, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return ticks{}, false
		}
		t.all += value
		switch i {
		case 3, 4:
		case 7:
			t.steal += value
		default:
			t.busy += value
		}
	}
	return t, true
}

// usage is the CPU time that the machine and this bench have used so far.
type usage struct {
	machine ticks
	ours    time.Duration
}

// usage reads it, or reports that it cannot be read.
func (b *bench) usage() (usage, bool) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return usage{}, false
	}
	machine, ok := parseTicks(string(content))
	pids := []int{os.Getpid(), b.upstream.process.command.Process.Pid}
	for _, s := range b.sites {
		pids = append(pids, s.pids()...)
	}
	ours, err := cpu(pids)
	return usage{machine, ours}, ok && err == nil
}

// since is the share of the machine's time that others took, and that the host kept back.
func (u usage) since(before usage) (others, steal float64) {
	all := u.machine.all - before.machine.all
	if all <= 0 {
		return 0, 0
	}
	const perSecond = 100 // ticks; Linux shows this unit whatever the kernel's own is
	others = (u.machine.busy - before.machine.busy - (u.ours-before.ours).Seconds()*perSecond) / all
	return max(others, 0), (u.machine.steal - before.machine.steal) / all
}

// describeMachine asks the kernel and the peers.
func describeMachine(t tools) machine {
	m := machine{Cores: runtime.NumCPU(), CPU: "unknown", Kernel: "unknown"}
	if content, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if match := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(content); match != nil {
			m.CPU = string(match[1])
		}
	}
	if content, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel, _, _ = strings.Cut(strings.TrimSpace(string(content)), "-") // what follows may be somebody's own
	}
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		m.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	m.Versions = append(m.Versions, runtime.Version())
	number := regexp.MustCompile(`\d+\.\d+(\.\d+)?`)
	version := func(name, program string, arguments ...string) {
		if program == "" {
			return
		}
		printed, _ := exec.Command(program, arguments...).CombinedOutput()
		if found := number.Find(printed); found != nil {
			m.Versions = append(m.Versions, name+" "+string(found))
		}
	}
	version("Caddy", t.caddy, "version")
	version("nginx", t.nginx, "-v")
	version("PHP", t.fpm, "-v")
	for _, name := range []string{"libnginx-mod-http-js", "libnginx-mod-http-lua"} {
		if program, err := exec.LookPath("dpkg-query"); err == nil {
			version(name, program, "-W", "-f", "${Version}", name)
		}
	}
	return m
}
