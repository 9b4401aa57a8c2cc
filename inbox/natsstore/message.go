package natsstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// names are an inbox's streams, and the subjects in them. A stream's name has no dots and a subject's part neither, so a
// dot of the inbox's name becomes ~, which no inbox has in its name.
type names struct {
	messages, delivered, dead, retry, leases string // streams
	subject                                  string // what all subjects begin with
}

func newNames(inbox string) names {
	part := strings.ReplaceAll(inbox, ".", "~")
	return names{
		messages:  "INBOX_" + part,
		delivered: "INBOX-DELIVERED_" + part,
		dead:      "INBOX-DEAD_" + part,
		retry:     "INBOX-RETRY_" + part,
		leases:    "INBOX-LEASES_" + part,
		subject:   "inbox." + part + ".",
	}
}

// message is the subject of an id. An id is any bytes, and long; equal digests are equal ids.
func (n names) message(id string) string {
	digest := sha256.Sum256([]byte(id))
	return n.subject + "message." + hex.EncodeToString(digest[:])
}

func (n names) of(kind string, seq uint64) string {
	return n.subject + kind + "." + strconv.FormatUint(seq, 10)
}

// entry is the subject of the message's place in the queue of retries, note that of what came of its tries, and retrying
// matches both.
func (n names) entry(seq uint64) string    { return n.of("retry", seq) + ".entry" }
func (n names) note(seq uint64) string     { return n.of("retry", seq) + ".note" }
func (n names) retrying(seq uint64) string { return n.of("retry", seq) + ".*" }

// seqOf is the seq in a subject of these.
func (n names) seqOf(subject string) uint64 {
	parts := strings.Split(strings.TrimPrefix(subject, n.subject), ".")
	if len(parts) < 2 {
		return 0
	}
	seq, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return 0
	}
	return seq
}

// The headers of a message.
const (
	headerID       = "Inbox-Id"       // percent-encoded
	headerKey      = "Inbox-Key"      // likewise
	headerReceived = "Inbox-Received" // RFC 3339
	headerPut      = "Inbox-Put"      // which call of Put has stored it: tells our own message from another's
	headerDropped  = "Inbox-Dropped"  // the request was dropped to make room; the value is the record of its delivery
)

// A record says what became of a message.
type record struct {
	Time     time.Time     `json:"time"`               // settled, or tried last
	Attempts int           `json:"attempts,omitempty"` //
	Answer   inbox.Answer  `json:"answer,omitzero"`    //
	Due      time.Time     `json:"due,omitzero"`       // of one that waits for a retry
	Delay    time.Duration `json:"delay,omitempty"`    // likewise: how long it was to wait, in nanoseconds
	Dropped  bool          `json:"dropped,omitempty"`  // of a delivered one: its request is gone
}

// encode makes the message of a Put.
func encode(subject string, m *inbox.Message, put string) *nats.Msg {
	header := nats.Header{
		headerID:       {url.QueryEscape(m.ID)},
		headerReceived: {m.Received.UTC().Format(time.RFC3339Nano)},
		headerPut:      {put},
	}
	if m.Key != "" {
		header[headerKey] = []string{url.QueryEscape(m.Key)}
	}
	return &nats.Msg{Subject: subject, Header: header, Data: m.Request}
}

// decode reads a message as it was put.
func decode(seq uint64, header nats.Header, data []byte) (*inbox.Message, error) {
	id, err := url.QueryUnescape(header.Get(headerID))
	if err != nil || len(header[headerID]) != 1 {
		return nil, fmt.Errorf("message %d of the stream has no readable %s: who has put it there?", seq, headerID)
	}
	key, err := url.QueryUnescape(header.Get(headerKey))
	if err != nil {
		return nil, fmt.Errorf("message %d of the stream has no readable %s: who has put it there?", seq, headerKey)
	}
	received, err := time.Parse(time.RFC3339Nano, header.Get(headerReceived))
	if err != nil {
		return nil, fmt.Errorf("message %d of the stream has no readable %s: who has put it there?", seq, headerReceived)
	}
	return &inbox.Message{Seq: seq, ID: id, Key: key, Received: received, Request: data, State: inbox.Pending}, nil
}

// headerSize is what the header takes in the message, at most.
func headerSize(header nats.Header) int {
	size := len("NATS/1.0\r\n\r\n")
	for name, values := range header {
		for _, value := range values {
			size += len(name) + len(value) + len(": \r\n")
		}
	}
	return size
}

// raw is one message as the server keeps it.
type raw struct {
	Subject  string    `json:"subject"`
	Sequence uint64    `json:"seq"`
	Head     []byte    `json:"hdrs"`
	Data     []byte    `json:"data"`
	Time     time.Time `json:"time"`

	header nats.Header
}

// get reads one message of a stream, from its leader: what the client offers may ask any replica, which may be behind. The
// error is inbox.ErrNotFound where there is none.
func (s *store) get(ctx context.Context, stream string, request map[string]any) (*raw, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := s.connection.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+stream, body)
	if err != nil {
		return nil, err
	}
	var decoded struct {
		Error   *jetstream.APIError `json:"error"`
		Message *raw                `json:"message"`
	}
	if err := json.Unmarshal(answer.Data, &decoded); err != nil {
		return nil, fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	if decoded.Error != nil {
		if decoded.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, inbox.ErrNotFound
		}
		return nil, decoded.Error
	}
	if decoded.Message == nil {
		return nil, errors.New("the server's answer holds no message")
	}
	if len(decoded.Message.Head) > 0 {
		if decoded.Message.header, err = nats.DecodeHeadersMsg(decoded.Message.Head); err != nil {
			return nil, fmt.Errorf("the headers of message %d cannot be read: %w", decoded.Message.Sequence, err)
		}
	}
	return decoded.Message, nil
}

func (s *store) getSeq(ctx context.Context, stream string, seq uint64) (*raw, error) {
	if seq == 0 {
		return nil, inbox.ErrNotFound
	}
	return s.get(ctx, stream, map[string]any{"seq": seq})
}

func (s *store) getLast(ctx context.Context, stream, subject string) (*raw, error) {
	return s.get(ctx, stream, map[string]any{"last_by_subj": subject})
}

// getNext reads the first message of the subject (which may have wildcards) from seq on.
func (s *store) getNext(ctx context.Context, stream, subject string, seq uint64) (*raw, error) {
	return s.get(ctx, stream, map[string]any{"seq": seq, "next_by_subj": subject})
}

// getRecord reads a record; nil where there is none.
func (s *store) getRecord(ctx context.Context, stream, subject string) (*record, error) {
	message, err := s.getLast(ctx, stream, subject)
	if errors.Is(err, inbox.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseRecord(message.Data)
}

func parseRecord(data []byte) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("a record of the inbox cannot be read: %w", err)
	}
	return r, nil
}

// standing is what has become of a message.
type standing struct {
	state  inbox.State
	record *record // nil for one that has never been tried
}

// standing looks a message up. What it says was true at some time during the call.
func (s *store) standing(ctx context.Context, seq uint64, header nats.Header) (standing, error) {
	if dropped := header.Get(headerDropped); dropped != "" {
		r, err := parseRecord([]byte(dropped))
		return standing{inbox.Delivered, r}, err
	}
	var records [3]*record
	var errs [3]error
	done := make(chan struct{})
	look := func(i int, stream, subject string) {
		records[i], errs[i] = s.getRecord(ctx, stream, subject)
		done <- struct{}{}
	}
	go look(0, s.names.delivered, s.names.of("delivered", seq))
	go look(1, s.names.dead, s.names.of("dead", seq))
	go look(2, s.names.retry, s.names.note(seq))
	for range records {
		<-done
	}
	if err := errors.Join(errs[:]...); err != nil {
		return standing{}, err
	}
	switch {
	case records[0] != nil:
		return standing{inbox.Delivered, records[0]}, nil
	case records[1] != nil:
		return standing{inbox.Dead, records[1]}, nil
	default:
		return standing{inbox.Pending, records[2]}, nil
	}
}

// fill puts into m what has become of it.
func (st standing) fill(m *inbox.Message) {
	m.State = st.state
	if st.record == nil {
		return
	}
	m.Attempts, m.Answer = st.record.Attempts, st.record.Answer
	if st.state == inbox.Pending {
		m.Due = st.record.Due
	} else {
		m.Settled = st.record.Time
	}
	if st.record.Dropped {
		m.Request = nil
	}
}
