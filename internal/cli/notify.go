package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/doctor"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// AddHex adds the flag --hex: the case of the letters in a notify's digest.
func AddHex(cmd *cobra.Command) *string {
	return cmd.Flags().String("hex", "upper", "Letters of the sign's hexadecimal, upper or lower; the platform's own are upper")
}

// SmallHex reads what --hex says.
func SmallHex(word string) (bool, error) {
	switch word {
	case "upper", "lower":
		return word == "lower", nil
	}
	return false, fmt.Errorf("--hex: %q is neither upper nor lower", word)
}

// SetFields sets a notify's fields from arguments of the form name=value.
func SetFields(n *sandbox.Notify, assignments []string) error {
	for _, assignment := range assignments {
		name, value, ok := strings.Cut(assignment, "=")
		if !ok || name == "" {
			return fmt.Errorf("--set: %q is not of the form name=value", assignment)
		}
		n.Fields[name] = value
	}
	return nil
}

// ReplaceFile writes a file that only its owner reads. What was there, a symbolic link too, gives way to it whole.
func ReplaceFile(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".notify-*")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}

// SendNotify sends a test notify and prints the answer. It returns an error if an honest notify is not answered with word,
// and if another one is.
func SendNotify(ctx context.Context, w io.Writer, address string, message *sandbox.Message, honest bool, word string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%q is not an address that begins with http:// or https://", address)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(message.Body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", message.ContentType)
	client := &http.Client{CheckRedirect: outbound.NoRedirect}
	start := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("status %s, and the answer was cut: %w", res.Status, err)
	}
	order := message.Form.Get("billNo")
	if message.Form.Has("merOrderId") {
		order = message.Form.Get("merOrderId")
	}
	r := &doctor.Report{W: w, Chinese: locale.Chinese()}
	r.Line("order", "%s", doctor.Printable(order))
	r.Line("status", "%s", res.Status)
	r.Line("answer", "%s", doctor.Printable(string(answer)))
	r.Line("took", "%s", time.Since(start).Round(time.Millisecond))
	if r.Err != nil {
		return r.Err
	}
	// The platform looks at the word (checklist NOTI-03).
	taken := res.StatusCode == http.StatusOK && strings.TrimSpace(string(answer)) == word
	switch {
	case res.StatusCode >= 300 && res.StatusCode <= 399:
		return errors.New(r.Say("redirected"))
	case honest && !taken:
		return errors.New(r.Say("not_taken"))
	case !honest && taken:
		return errors.New(r.Say("wrongly_taken"))
	}
	return nil
}
