//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
)

// process is a program that the bench has started, with all that it starts itself.
type process struct {
	command *exec.Cmd
	name    string
	log     *bytes.Buffer
	done    chan struct{}
	failure error // valid when done is closed
}

// startProcess starts a program that ends when the bench does, however that ends. It must be called on the main thread,
// whose end is the process's.
func startProcess(name string, command *exec.Cmd, environment []string) (*process, error) {
	p := &process{command: command, name: name, log: new(bytes.Buffer), done: make(chan struct{})}
	command.Env = environment
	if command.Stderr == nil {
		command.Stderr = p.log
	}
	command.WaitDelay = time.Second // a descendant that lives on may hold its standard error
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		p.failure = command.Wait()
		close(p.done)
	}()
	return p, nil
}

// stop ends the process and its descendants, by force if they do not end by themselves. PHP-FPM leaves children behind
// that are still busy.
func (p *process) stop() {
	family := p.family()
	_ = p.command.Process.Signal(syscall.SIGTERM)
	deadline := time.Now().Add(3 * time.Second)
	for len(family) > 0 {
		force := time.Now().After(deadline)
		family = slices.DeleteFunc(family, func(pid int) bool {
			if force {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return force || !alive(pid)
		})
		time.Sleep(5 * time.Millisecond)
	}
	<-p.done
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return false
	}
	stat, err := p.Stat()
	return err == nil && stat.State != "Z"
}

// family is the process and its descendants.
func (p *process) family() []int {
	parents := make(map[int]int)
	all, _ := procfs.AllProcs()
	for _, other := range all {
		if stat, err := other.Stat(); err == nil { // else it has just ended
			parents[stat.PID] = stat.PPID
		}
	}
	family := []int{p.command.Process.Pid}
	for i := 0; i < len(family); i++ {
		for pid, parent := range parents {
			if parent == family[i] && !slices.Contains(family, pid) {
				family = append(family, pid)
			}
		}
	}
	return family
}

// memory is what processes have in memory.
type memory struct {
	RSS int64 // bytes; what processes share counts for each of them
	PSS int64 // bytes; what they share is divided among them
}

// readMemory adds up the memory of these processes.
func readMemory(pids []int) (memory, error) {
	var sum memory
	for _, pid := range pids {
		p, err := procfs.NewProc(pid)
		var rollup procfs.ProcSMapsRollup
		if err == nil {
			rollup, err = p.ProcSMapsRollup()
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return memory{}, err
		}
		sum.RSS += int64(rollup.Rss)
		sum.PSS += int64(rollup.Pss)
	}
	return sum, nil
}

// freePorts are ports that nobody listened on a moment ago.
func freePorts(count int) ([]int, error) {
	ports := make([]int, count)
	for i := range ports {
		var err error
		if ports[i], err = freeport.Port(); err != nil {
			return nil, err
		}
	}
	return ports, nil
}

// listening waits until all addresses take connections.
func (p *process) listening(addresses []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // on a very busy machine
	defer cancel()
	for _, address := range addresses {
		network := "tcp4"
		if strings.HasPrefix(address, "/") {
			network = "unix"
		}
		for {
			connection, err := net.Dial(network, address)
			if err == nil {
				_ = connection.Close()
				break
			}
			select {
			case <-p.done:
				return fmt.Errorf("%s ended: %w\n%s", p.name, p.failure, p.log)
			case <-ctx.Done():
				return fmt.Errorf("%s does not listen: %w", p.name, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}
