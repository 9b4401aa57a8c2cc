package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// phpCGI is a php-cgi that we started.
type phpCGI struct {
	command *exec.Cmd
	address string // as the Caddyfile wants it
	ended   chan error
}

// startPHP starts php-cgi, and waits until it listens.
func startPHP(ctx context.Context, program, directory string, output io.Writer) (*phpCGI, error) {
	// A socket in our own directory is nobody else's: who reaches PHP over FastCGI can run any file.
	network, listen := "unix", filepath.Join(directory, "php.sock")
	p := &phpCGI{address: "unix/" + listen, ended: make(chan error, 1)}
	if runtime.GOOS == "windows" { // no php-cgi there listens on a socket
		listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, err
		}
		network, listen = "tcp", listener.Addr().String()
		p.address = listen
		_ = listener.Close()
	}
	p.command = exec.Command(program, "-b", listen)
	p.command.Stdout, p.command.Stderr = output, output
	p.command.WaitDelay = time.Second
	p.command.Env = append(os.Environ(), "PHP_FCGI_CHILDREN=4", "PHP_FCGI_MAX_REQUESTS=0") // a page may wait for an event
	ownGroup(p.command)
	if err := p.command.Start(); err != nil {
		return nil, fmt.Errorf("starting php-cgi: %w", err)
	}
	go func() { p.ended <- p.command.Wait() }()

	ctx, cancel := context.WithTimeout(ctx, time.Minute) // it takes long where a machine is busy and the disk cold
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		connection, err := net.Dial(network, listen)
		if err == nil {
			_ = connection.Close()
			return p, nil
		}
		select {
		case err := <-p.ended:
			return nil, errors.Join(errors.New("php-cgi ended at once"), err)
		case <-ctx.Done():
			p.stop()
			return nil, fmt.Errorf("php-cgi does not listen: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// stop ends php-cgi and its children.
func (p *phpCGI) stop() {
	if p == nil {
		return
	}
	endGroup(p.command.Process, false)
	select {
	case <-p.ended: //nolint:errcheck // it was told to end
	case <-time.After(3 * time.Second):
	}
	endGroup(p.command.Process, true) // what is left of it
	if network, path, _ := strings.Cut(p.address, "/"); network == "unix" {
		_ = os.Remove(path)
	}
}
