//go:build linux

package main

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

// machine says where and when was measured; nothing that tells whose machine it is.
type machine struct {
	Date, Commit string
	Short        bool
	Cores        int
	CPU, Kernel  string
	Memory       int64 // bytes
	Versions     []string
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
