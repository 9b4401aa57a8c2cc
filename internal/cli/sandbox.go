package cli

import (
	"fmt"
	"io"
	"net/http"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// Sandbox holds the flags of a command that runs a sandbox.
type Sandbox struct {
	Listen, Save *string
	UI, Fast     *bool
}

// AddSandbox adds --listen, --ui, --save and --fast.
func AddSandbox(cmd *cobra.Command, address, fast string) Sandbox {
	flags := cmd.Flags()
	return Sandbox{
		Listen: flags.StringP("listen", "l", address, "Loopback address; port 0 takes a free one"),
		UI:     flags.BoolP("ui", "u", false, "Serve a page of the orders at /"),
		Save:   flags.String("save", "", "Save each notify that is sent in this directory"),
		Fast:   flags.Bool("fast", false, fast),
	}
}

// Warn returns a function that prints the platform's warnings to standard error.
func (s Sandbox) Warn(cmd *cobra.Command) func(text string) {
	return func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "# 提示 warning:", text) }
}

// Run serves a platform until it is interrupted. It calls ready with the platform's URL as soon as it listens.
func (s Sandbox) Run(cmd *cobra.Command, platform interface {
	http.Handler
	Close()
}, ready func(w io.Writer, url string) error) error {
	defer platform.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := sandbox.Serve(ctx, *s.Listen, platform, func(url string) error { return ready(cmd.OutOrStdout(), url) })
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	return nil
}

// Announcement is what somebody needs who points a gateway to a sandbox.
type Announcement struct {
	Kind    Kind
	Title   string // the platform's name, in both languages
	Note    string // what follows the remark about the keys
	Exports string // lines for a shell that set variables
	Options string // lines of the account in the Caddyfile
}

// Print prints the variables for a shell, and then the Caddyfile. page says that the sandbox serves its page.
func (a Announcement) Print(w io.Writer, url string, page bool) error {
	orders := ""
	if page {
		orders = "\n# 订单页面 a page of the orders: " + url + "/"
	}
	_, err := fmt.Fprintf(w, `# %[1]s at %[2]s, until interrupted%[3]s
# 密钥每次启动都不同 the keys are fresh%[4]s

%[5]s

# Caddyfile; start Caddy where these variables are set 在设置了以上变量的终端里启动 Caddy

{
	%[6]s {
		%[7]s sandbox {
%[8]s
		}
	}
}
http://:8901 {
	bind 127.0.0.1
	%[6]s_proxy
}
http://:8902 {
	bind 127.0.0.1
	handle /notify {
		%[6]s_notify
		respond 200
	}
	respond 404
}
`, a.Title, url, orders, a.Note, strings.TrimSpace(a.Exports), a.Kind.App, a.Kind.Name, strings.Trim(a.Options, "\n"))
	return err
}
