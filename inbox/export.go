package inbox

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/adminapi"
)

// FileReader is a Provider that keeps an inbox in a file, which can be read while no Caddy has it open.
type FileReader interface {
	// ReadFile calls take with every message of the file that can be read, in the order of seq, Request included, until
	// take returns an error. It calls skipped with a sentence about what cannot be read, and changes nothing. The state of
	// a message of which it cannot be told is Unknown.
	ReadFile(path string, take func(message *Message) error, skipped func(what string)) error
}

// Unknown is the state of a message of a damaged file, where it cannot be told.
const Unknown State = "unknown"

func exportCommand(reach reachFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export <file> [--file <inbox file>]",
		Short: "Writes all messages, whole, into a file",
		Long: `
Writes all messages of an inbox into a new file, one JSON object a line, as
"caddy inbox show --show" prints them. Nothing in it is masked: it has what the
payers and the app told each other, and only its owner may read it (mode 0600).

--file reads the messages from the file of an inbox (store bolt) that no Caddy has
open, without asking any Caddy. A damaged file is read as far as it can be; what was
left out is said on standard error, and the command fails.`,
		Args:    cobra.ExactArgs(1),
		Example: "  caddy inbox export messages.jsonl\n  caddy inbox export messages.jsonl --file /var/lib/caddy/.local/share/caddy/inbox/default.db",
	}
	from := cmd.Flags().String("file", "", "Read this file of an inbox, which no Caddy has open, instead of asking Caddy")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e := &export{cmd: cmd, path: args[0]}
		if cmd.Flags().Changed("file") {
			return e.write(func() error { return e.read(*from) })
		}
		client, err := reach.client()
		if err != nil {
			return err
		}
		return e.write(func() error { return e.ask(client) })
	}
	return cmd
}

// export is one file that is being written.
type export struct {
	cmd     *cobra.Command
	path    string
	to      io.Writer
	done    int // messages that are written
	at      uint64
	damaged int // sentences about what is left out of a file
}

// write makes the file, lets its lines be written, and says what came of it.
func (e *export) write(lines func() error) error {
	file, err := os.OpenFile(e.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(file, 1<<20)
	e.to = buffered
	err = lines()
	if failed := errors.Join(buffered.Flush(), file.Sync(), file.Close()); err == nil {
		err = failed
	}
	switch {
	case err != nil && e.at == 0:
		_ = os.Remove(e.path) // nothing is in it, and it would be in the way of the next attempt
		return err
	case err != nil:
		return fmt.Errorf("%s is not complete: it has %d messages; then, at %d: %w", e.path, e.done, e.at, err)
	}
	fmt.Fprintf(e.cmd.OutOrStdout(), "%d messages are in %s.\n", e.done, e.path)
	if e.damaged > 0 {
		return errors.New("the file is damaged: not all of it could be read")
	}
	return nil
}

func (e *export) note(seq uint64, what string) {
	fmt.Fprintf(e.cmd.ErrOrStderr(), "%d: %s\n", seq, adminapi.Printable(what))
}

// ask gets the messages from the admin API. One that is gone meanwhile is none; one that cannot be read is there as it is
// listed.
func (e *export) ask(client *inboxClient) error {
	return client.pages(e.cmd.Context(), "", func(page []messageJSON) error {
		for _, listed := range page {
			e.at = listed.Seq
			content, err := client.Call(e.cmd.Context(), http.MethodGet, client.path+messagePath(listed.Seq), url.Values{"show": {"1"}})
			refused, ok := errors.AsType[*adminapi.Refusal](err)
			switch {
			case err == nil:
			case ok && refused.Status == http.StatusNotFound:
				continue
			case ok && (refused.Status == http.StatusInternalServerError || listed.ID == ""):
				e.note(listed.Seq, "its request is left out: "+refused.Message)
				if content, err = json.Marshal(listed); err != nil {
					return err
				}
			default:
				return err
			}
			var line bytes.Buffer
			if err := json.Compact(&line, content); err != nil {
				return fmt.Errorf("reading the admin API's answer: %w", err)
			}
			line.WriteByte('\n')
			if _, err := e.to.Write(line.Bytes()); err != nil {
				return err
			}
			e.done++
		}
		return nil
	})
}

// read gets the messages from an inbox's file.
func (e *export) read(path string) error {
	info, err := caddy.GetModule("inbox.stores.bolt")
	if err != nil {
		return err
	}
	reader, ok := info.New().(FileReader)
	if !ok {
		return errors.New("this Caddy cannot read the file of an inbox")
	}
	lines := json.NewEncoder(e.to)
	lines.SetEscapeHTML(false)
	return reader.ReadFile(path, func(message *Message) error {
		e.at = message.Seq
		line := newMessageJSON(message)
		if len(message.Request) > 0 {
			stored, err := decodeRequest(message.Request)
			if err == nil {
				line.Request = newRequestJSON(stored, true)
			} else {
				e.damaged++
				e.note(message.Seq, "its request is left out: it cannot be read: "+err.Error())
			}
		}
		e.done++
		return lines.Encode(line)
	}, func(what string) {
		e.damaged++
		fmt.Fprintln(e.cmd.ErrOrStderr(), adminapi.Printable(what))
	})
}
