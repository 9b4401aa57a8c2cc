//go:build unix

package dev

import (
	"os"
	"os/exec"
	"syscall"
)

// ownGroup puts a program that is started into a group of its own: Ctrl-C reaches us first, and its children end with it.
func ownGroup(command *exec.Cmd) { command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// endGroup asks a program and its children to end, or ends them by force.
func endGroup(process *os.Process, force bool) {
	signal := syscall.SIGTERM
	if force {
		signal = syscall.SIGKILL
	}
	_ = syscall.Kill(-process.Pid, signal)
}
