package natsstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
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

// of is the subject of what is kept of the message with a key.
func (n names) of(kind, key string) string { return n.subject + kind + "." + key }

// entry is the subject of the message's place in the queue of retries, note that of what came of its tries, and retrying
// matches both.
func (n names) entry(key string) string    { return n.of("retry", key) + ".entry" }
func (n names) note(key string) string     { return n.of("retry", key) + ".note" }
func (n names) retrying(key string) string { return n.of("retry", key) + ".*" }

// reference says which message a record, a claim or an entry is of.
type reference struct {
	key     string // what it is called by: says which call of Put has stored the message
	subject string // the message's; empty in what was recorded by key alone
	seq     uint64 // the message's, when this was written: it may have moved since
}

// keyOf is what a stored message is called by in all that is recorded of it. It is not the seq, which another message
// may have on another server of an old cluster. Messages without a word of their own have but the seq.
func keyOf(seq uint64, header nats.Header) string {
	if put := header.Get(headerPut); isWord(put) {
		return put
	}
	return strconv.FormatUint(seq, 10)
}

// isWord reports whether a text may be one part of a subject: with a wildcard in it, more would be purged than is meant.
func isWord(text string) bool {
	odd := func(c rune) bool { return (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') }
	return text != "" && len(text) <= 64 && strings.IndexFunc(text, odd) < 0
}

func referenceOf(subject string, seq uint64, header nats.Header) reference {
	return reference{key: keyOf(seq, header), subject: subject, seq: seq}
}

// referred is the message that a record or an entry is of.
func (n names) referred(subject string, header nats.Header) reference {
	var r reference
	if parts := strings.Split(strings.TrimPrefix(subject, n.subject), "."); len(parts) > 1 {
		r.key = parts[1]
	}
	if digest := header.Get(headerMessage); isWord(digest) {
		r.subject = n.subject + "message." + digest
	}
	seq, err := strconv.ParseUint(header.Get(headerSeq), 10, 64)
	if err != nil {
		seq, _ = strconv.ParseUint(r.key, 10, 64) // 0: none
	}
	r.seq = seq
	return r
}

// about makes what is recorded of a message.
func (n names) about(r reference, subject string, body []byte) *nats.Msg {
	header := nats.Header{headerSeq: {strconv.FormatUint(r.seq, 10)}}
	if r.subject != "" {
		header[headerMessage] = []string{strings.TrimPrefix(r.subject, n.subject+"message.")}
	}
	return &nats.Msg{Subject: subject, Header: header, Data: body}
}

// recording makes a record of a message.
func (n names) recording(of reference, subject string, r *record) (*nats.Msg, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	wire := n.about(of, subject, body)
	if !r.Due.IsZero() {
		wire.Header[headerDue] = []string{fmt.Sprintf("%d %d", r.Due.UnixNano(), r.Delay)}
	}
	return wire, nil
}

// noting makes a note of a message that waits.
func (n names) noting(of reference, r *record) (*nats.Msg, error) {
	return n.recording(of, n.note(of.key), r)
}

// entering makes a message's place in the queue of retries.
func (n names) entering(of reference, entry string, received time.Time) *nats.Msg {
	wire := n.about(of, n.entry(of.key), nil)
	wire.Header[headerEntry] = []string{entry}
	wire.Header[headerReceived] = []string{received.UTC().Format(time.RFC3339Nano)}
	return wire
}

// entryOf tells an entry from others of its message.
func entryOf(seq uint64, header nats.Header) string {
	if entry := header.Get(headerEntry); isWord(entry) {
		return entry
	}
	return strconv.FormatUint(seq, 10)
}

// firstClaim is claimed by who delivers a message out of the first queue, handed out for the n-th time, and retryClaim by
// who delivers it out of the queue of retries.
func (n names) firstClaim(key string, times uint64) string {
	return n.of("lease", key) + ".new." + strconv.FormatUint(times, 10)
}

func (n names) retryClaim(key, entry string, times uint64) string {
	return n.of("lease", key) + ".retry." + entry + "." + strconv.FormatUint(times, 10)
}

// The headers of a message.
const (
	headerID       = "Inbox-Id"       // percent-encoded
	headerKey      = "Inbox-Key"      // likewise
	headerSubject  = "Inbox-Subject"  // likewise
	headerReceived = "Inbox-Received" // RFC 3339
	headerPut      = "Inbox-Put"      // which call of Put has stored it: tells our own message from another's
	headerReplaces = "Inbox-Replaces" // what the message of the same id was called that it has replaced
	headerDropped  = "Inbox-Dropped"  // the request was dropped to make room; the value is the record of its delivery
)

// The headers of what is recorded of a message.
const (
	headerMessage = "Inbox-Message" // the last part of the message's subject
	headerSeq     = "Inbox-Seq"     // the seq that the message had then
	headerDue     = "Inbox-Due"     // of a note: when the next try is due and how long it was to wait, in nanoseconds
	headerEntry   = "Inbox-Entry"   // of an entry: tells it from others of the message
)

// A record says what became of a message.
type record struct {
	Time     time.Time     `json:"time"`               // settled, or tried last
	Attempts int           `json:"attempts,omitempty"` //
	Answer   inbox.Answer  `json:"answer,omitzero"`    //
	Due      time.Time     `json:"due,omitzero"`       // of one that waits for a retry
	Delay    time.Duration `json:"delay,omitempty"`    // likewise: how long it was to wait, in nanoseconds
	Dropped  bool          `json:"dropped,omitempty"`  // of a delivered one: its request is gone
	Entry    string        `json:"entry,omitempty"`    // of one that waits: its entry; any other of it may be an older one
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
	if m.Subject != "" {
		header[headerSubject] = []string{url.QueryEscape(m.Subject)}
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
	about, err := url.QueryUnescape(header.Get(headerSubject))
	if err != nil {
		return nil, fmt.Errorf("message %d of the stream has no readable %s: who has put it there?", seq, headerSubject)
	}
	received, err := time.Parse(time.RFC3339Nano, header.Get(headerReceived))
	if err != nil {
		return nil, fmt.Errorf("message %d of the stream has no readable %s: who has put it there?", seq, headerReceived)
	}
	return &inbox.Message{Seq: seq, ID: id, Key: key, Subject: about, Received: received, Request: data, State: inbox.Pending}, nil
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
	var decoded struct {
		Error   *jetstream.APIError `json:"error"`
		Message *raw                `json:"message"`
	}
	if err := s.call(ctx, "STREAM.MSG.GET."+stream, request, &decoded); err != nil {
		return nil, err
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
		var err error
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

// everything filters nothing. Servers go through all subjects of a stream for a filter that matches each of them, but not for this one.
const everything = ">"

// getNext reads the first message of the subject (which may have wildcards) from seq on.
func (s *store) getNext(ctx context.Context, stream, subject string, seq uint64) (*raw, error) {
	return s.get(ctx, stream, map[string]any{"seq": seq, "next_by_subj": subject})
}

// subjects are those of a stream that match a filter. They stand in the server's index: it reads no message for them.
func (s *store) subjects(ctx context.Context, stream, filter string) ([]string, error) {
	var decoded struct {
		Error *jetstream.APIError `json:"error"`
		State struct {
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
	}
	if err := s.call(ctx, "STREAM.INFO."+stream, map[string]any{"subjects_filter": filter}, &decoded); err != nil {
		return nil, err
	}
	if decoded.Error != nil {
		return nil, decoded.Error
	}
	return slices.Collect(maps.Keys(decoded.State.Subjects)), nil
}

// What find says of a message that it does not find.
var (
	errReplaced   = fmt.Errorf("%w any more: another one has its id", inbox.ErrNotFound)
	errUnreadable = errors.New("cannot be read")
)

// find reads the message that a record is of. The error is inbox.ErrNotFound where it is no more, or another one has taken
// its id (errReplaced).
//
// A server says that it has no such message whatever goes wrong when it reads its disk. As much is removed for want of its
// message, it is believed only if its index says the same.
func (s *store) find(ctx context.Context, r reference) (*raw, error) {
	if r.subject == "" {
		kept, err := s.getSeq(ctx, s.names.messages, r.seq)
		if err == nil && keyOf(kept.Sequence, kept.header) != r.key {
			return nil, errReplaced
		}
		return kept, err
	}
	kept, err := s.getLast(ctx, s.names.messages, r.subject)
	if errors.Is(err, inbox.ErrNotFound) {
		known, failed := s.subjects(ctx, s.names.messages, r.subject)
		if failed != nil || len(known) == 0 {
			return nil, cmp.Or(failed, err)
		}
		// It may be stored since, or that may have passed.
		if kept, err = s.getLast(ctx, s.names.messages, r.subject); errors.Is(err, inbox.ErrNotFound) {
			err = fmt.Errorf("the message %s %w", r.subject, errUnreadable)
		}
	}
	if err == nil && keyOf(kept.Sequence, kept.header) != r.key {
		return nil, errReplaced
	}
	return kept, err
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
		return nil, fmt.Errorf("a record of the inbox %w: %w", errUnreadable, err)
	}
	return r, nil
}

// standing is what has become of a message.
type standing struct {
	state  inbox.State
	record *record // nil for one that has never been tried
}

// standing looks a message up. What it says was true at some time during the call.
func (s *store) standing(ctx context.Context, key string, header nats.Header) (standing, error) {
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
	go look(0, s.names.delivered, s.names.of("delivered", key))
	go look(1, s.names.dead, s.names.of("dead", key))
	go look(2, s.names.retry, s.names.note(key))
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

// unsettled returns errUnreadable if a message of which no outcome was found has one all the same, by the server's index. It is
// for where much speaks for that: servers before 2.11 need milliseconds for it.
func (s *store) unsettled(ctx context.Context, key string) error {
	for stream, kind := range map[string]string{s.names.delivered: "delivered", s.names.dead: "dead"} {
		known, err := s.subjects(ctx, stream, s.names.of(kind, key))
		if err == nil && len(known) > 0 {
			err = fmt.Errorf("the record %s %w", s.names.of(kind, key), errUnreadable)
		}
		if err != nil {
			return err
		}
	}
	return nil
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
