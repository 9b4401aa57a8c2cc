//go:build linux

package main

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
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

// usage is the CPU time that the machine and this bench have used so far.
type usage struct {
	machine procfs.CPUStat // seconds
	ours    time.Duration
}

// usage reads it, or reports that it cannot be read.
func (b *bench) usage() (usage, bool) {
	var stat procfs.Stat
	files, err := procfs.NewDefaultFS()
	if err == nil {
		stat, err = files.Stat()
	}
	pids := []int{os.Getpid(), b.upstream.process.command.Process.Pid}
	for _, s := range b.sites {
		pids = append(pids, s.pids()...)
	}
	ours, failure := cpu(pids)
	return usage{stat.CPUTotal, ours}, err == nil && failure == nil
}

// since is the share of the machine's time that others took, and that the host kept back.
func (u usage) since(before usage) (others, steal float64) {
	busy := func(c procfs.CPUStat) float64 { return c.User + c.Nice + c.System + c.IRQ + c.SoftIRQ }
	all := func(c procfs.CPUStat) float64 { return busy(c) + c.Idle + c.Iowait + c.Steal }
	passed := all(u.machine) - all(before.machine)
	if passed <= 0 {
		return 0, 0
	}
	others = (busy(u.machine) - busy(before.machine) - (u.ours - before.ours).Seconds()) / passed
	return max(others, 0), (u.machine.Steal - before.machine.Steal) / passed
}

// describeMachine asks the kernel and the peers.
func describeMachine(t tools) machine {
	m := machine{Cores: runtime.NumCPU(), CPU: "unknown", Kernel: "unknown"}
	if files, err := procfs.NewDefaultFS(); err == nil {
		if all, err := files.CPUInfo(); err == nil && len(all) > 0 && all[0].ModelName != "" {
			m.CPU = all[0].ModelName
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
