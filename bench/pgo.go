//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// profileTime is how long a profile is taken.
const profileTime = 30 * time.Second

// profile writes a CPU profile of the plugin under calls and notifies at the same time: what Go's compiler takes as
// default.pgo.
func (b *bench) profile() error {
	p := productOf(pluginName)
	p.start = func(s *site) error {
		ports, err := freePorts(1)
		if err != nil {
			return err
		}
		s.Admin = "127.0.0.1:" + strconv.Itoa(ports[0])
		return startCaddy(s)
	}
	s, err := open(p, b.tools)
	if err != nil {
		return err
	}
	defer s.close()
	l := load{connections: b.plan.Connections, warm: time.Second, duration: profileTime + time.Second}
	for _, way := range ways {
		l.aims = append(l.aims, aim{s.address(way), b.requests(s, way, b.body(way), ""), 200})
	}
	written := make(chan error, 1)
	go func() {
		written <- fetch("http://"+s.Admin+"/debug/pprof/profile?seconds="+strconv.Itoa(int(profileTime/time.Second)), b.tools.profile)
	}()
	_, err = run(l)
	return errors.Join(err, <-written)
}

func fetch(address, file string) error {
	response, err := http.Get(address)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", address, response.Status)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o644) //nolint:gosec // to be read by all
}

// against measures the plugin beside the same of another program.
func (b *bench) against() error {
	others := b.tools
	others.caddy = b.tools.against
	other, err := open(productOf(pluginName), others)
	if err != nil {
		return err
	}
	defer other.close()
	other.name = "against"
	for _, way := range ways {
		if err := b.pair(way, other, b.sites[pluginName], false, false); err != nil {
			return err
		}
	}
	return nil
}
