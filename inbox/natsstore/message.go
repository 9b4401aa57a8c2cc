package natsstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natsconn"
)

// The states of a message, which are parts of its subject.
const (
	stateNew       = "new"       // no delivery of it has failed
	stateRetry     = "retry"     // one has: it waits for its time
	stateDelivered = "delivered" // forgotten after Settings.Remember
	stateDropped   = "dropped"   // likewise, and its request was dropped to make room
	stateDead      = "dead"
)

// statesOf are the states that the inbox knows as one.
var statesOf = map[inbox.State][]string{
	inbox.Pending:   {stateNew, stateRetry},
	inbox.Delivered: {stateDelivered, stateDropped},
	inbox.Dead:      {stateDead},
	"":              {stateNew, stateRetry, stateDelivered, stateDropped, stateDead},
}

// stateOf is the other way round.
var stateOf = map[string]inbox.State{
	stateNew: inbox.Pending, stateRetry: inbox.Pending, stateDelivered: inbox.Delivered, stateDropped: inbox.Delivered, stateDead: inbox.Dead,
}

// names are an inbox's streams and subjects. A part of a subject has no dots, so a dot of the inbox's name becomes ~, which no
// inbox has in its name.
type names struct {
	messages, claims string // streams
	subject          string // what all subjects begin with
}

func newNames(inbox string) names {
	part := strings.ReplaceAll(inbox, ".", "~")
	return names{messages: "INBOX_" + part, claims: "INBOX-CLAIMS_" + part, subject: "inbox." + part + "."}
}

// digestOf stands for an id in subjects: an id is any bytes, and long.
func digestOf(id string) string {
	digest := sha256.Sum256([]byte(id))
	return hex.EncodeToString(digest[:])
}

// of is the subject of a message in a state; * matches any.
func (n names) of(state, digest string) string { return n.subject + state + "." + digest }

// claim is the subject that is claimed by who delivers a message. Each move gives a message another seq, and thus another claim.
func (n names) claim(digest string, seq uint64) string {
	return n.subject + "claim." + digest + "." + strconv.FormatUint(seq, 10)
}

func (n names) filters(states []string) []string {
	var all []string
	for _, state := range states {
		all = append(all, n.of(state, "*"))
	}
	return all
}

// The headers of a message.
const (
	headerID       = "Inbox-Id"       // percent-encoded, as the next two
	headerKey      = "Inbox-Key"      //
	headerSubject  = "Inbox-Subject"  //
	headerReceived = "Inbox-Received" // RFC 3339
	headerRecord   = "Inbox-Record"   // what became of it, as JSON
	headerStep     = "Inbox-Step"     // a random word of who published this: tells an own publish whose answer was lost
	headerReplaces = "Inbox-Replaces" // the seq of the settled message that this one replaces
	headerTTL      = "Nats-TTL"
	headerMatching = "Nats-Expected-Last-Subject-Sequence-Subject"
)

// A record says what became of a message.
type record struct {
	Attempts int           `json:"attempts,omitempty"` // deliveries that have failed
	Due      time.Time     `json:"due,omitzero"`       // of one that waits for a retry
	Delay    time.Duration `json:"delay,omitempty"`    // likewise: how long it was to wait, in nanoseconds
	Settled  time.Time     `json:"settled,omitzero"`   // of one that is settled
	Answer   inbox.Answer  `json:"answer,omitzero"`    // the app's last
}

// kept is one message as the server keeps it.
type kept struct {
	Subject       string
	Sequence      uint64
	Data          []byte
	header        nats.Header
	state, digest string // parts of the subject

	// What decode has read.
	message *inbox.Message
	record  record
}

func newKept(subject string, seq uint64, header nats.Header, data []byte) *kept {
	k := &kept{Subject: subject, Sequence: seq, Data: data, header: header}
	if parts := strings.Split(subject, "."); len(parts) == 4 {
		k.state, k.digest = parts[2], parts[3]
	}
	return k
}

// seq is 0 of a message that there is not.
func (k *kept) seq() uint64 {
	if k == nil {
		return 0
	}
	return k.Sequence
}

func (k *kept) size() int64 {
	return size(&nats.Msg{Subject: k.Subject, Header: k.header, Data: k.Data})
}

// identity are the headers that a message keeps for ever.
func identity(m *inbox.Message) nats.Header {
	header := nats.Header{headerID: {url.QueryEscape(m.ID)}, headerReceived: {m.Received.UTC().Format(time.RFC3339Nano)}}
	if m.Key != "" {
		header[headerKey] = []string{url.QueryEscape(m.Key)}
	}
	if m.Subject != "" {
		header[headerSubject] = []string{url.QueryEscape(m.Subject)}
	}
	return header
}

// message makes what is published to move a message into a state.
func (n names) message(state, digest string, from nats.Header, r record, data []byte) *nats.Msg {
	header := nats.Header{headerStep: {rand.Text()}}
	for _, name := range []string{headerID, headerKey, headerSubject, headerReceived} {
		if values, ok := from[name]; ok {
			header[name] = values
		}
	}
	if encoded, err := json.Marshal(r); err == nil && r != (record{}) { // it always can be encoded
		header[headerRecord] = []string{string(encoded)}
	}
	return &nats.Msg{Subject: n.of(state, digest), Header: header, Data: data}
}

func (k *kept) decode() error {
	m := &inbox.Message{Seq: k.Sequence, Request: k.Data, State: stateOf[k.state]}
	var problems [5]error
	m.ID, problems[0] = url.QueryUnescape(k.header.Get(headerID))
	m.Key, problems[1] = url.QueryUnescape(k.header.Get(headerKey))
	m.Subject, problems[2] = url.QueryUnescape(k.header.Get(headerSubject))
	m.Received, problems[3] = time.Parse(time.RFC3339Nano, k.header.Get(headerReceived))
	if encoded := k.header.Get(headerRecord); encoded != "" {
		problems[4] = json.Unmarshal([]byte(encoded), &k.record)
	}
	if err := errors.Join(problems[:]...); err != nil || digestOf(m.ID) != k.digest {
		return fmt.Errorf("message %d of the stream is none of an inbox: who has put it there?", k.Sequence)
	}
	m.Attempts, m.Due, m.Settled, m.Answer = k.record.Attempts, k.record.Due, k.record.Settled, k.record.Answer
	if k.message = m; k.state == stateDropped {
		m.Request = nil
	}
	return nil
}

// headerSize is what headers take in a message, at most.
func headerSize(header nats.Header) int {
	size := len("NATS/1.0\r\n\r\n")
	for name, values := range header {
		for _, value := range values {
			size += len(name) + len(value) + len(": \r\n")
		}
	}
	return size
}

// size is about what a message takes on the server's disk, with what publish adds to it.
func size(m *nats.Msg) int64 {
	return int64(2*len(m.Subject) + headerSize(m.Header) + len(m.Data) + 140)
}

// errMoved is an error of publish: the last message of the id, or the claim, is not the expected one.
var errMoved = errors.New("the subject's last message is another one")

// errBehind is an error of move: the last message of the id is an older one than was seen. It was deleted; or the server that
// answers led until lately, and knows neither of its successor nor of what that has stored.
var errBehind = errors.New("the server knows less than it has handed out")

// publish stores one message and waits for the server's word that it is stored. from is the seq that the last message matching
// a subject must have, 0: there must be none.
func (s *store) publish(ctx context.Context, m *nats.Msg, matching string, from uint64) (seq uint64, err error) {
	m = &nats.Msg{Subject: m.Subject, Header: maps.Clone(m.Header), Data: m.Data}
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(from, 10))
	if matching != m.Subject {
		m.Header.Set(headerMatching, matching)
	}
	err = s.ask(ctx, func(ctx context.Context) error {
		stored, err := s.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
		if err == nil {
			seq = stored.Sequence
		}
		return err
	})
	api, _ := errors.AsType[*jetstream.APIError](err)
	switch {
	case err == nil:
		return seq, nil
	case natsconn.IsConflict(err):
		return 0, errMoved
	case errors.Is(err, nats.ErrMaxPayload), api != nil && api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return 0, inbox.ErrTooLarge
	}
	return 0, err
}

// move publishes a message until it is known what came of that, or ctx ends. It expects that of the messages in a stream that match
// a subject the last one has the seq from, 0: that there is none. Else the error is errMoved, and last is the later one there is.
func (s *store) move(ctx context.Context, in jetstream.Stream, m *nats.Msg, matching string, from uint64) (seq uint64, last *kept, err error) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if seq, err = s.publish(ctx, m, matching, from); err == nil || errors.Is(err, inbox.ErrTooLarge) {
			return seq, nil, err
		}
		if errors.Is(err, errMoved) {
			last, err = s.last(ctx, in, matching)
			switch {
			case err == nil && last != nil && last.header.Get(headerStep) == m.Header.Get(headerStep):
				return last.Sequence, nil, nil // by a try whose answer was lost
			case err == nil && last.seq() > from:
				return 0, last, errMoved
			case err == nil && last.seq() < from:
				err = errBehind
			case err == nil:
				err = errors.New("the server contradicts itself about what is stored")
			}
		}
		if !s.sleep(ctx, pause) {
			return 0, nil, err
		}
	}
}

// moveMessage moves a message of an id, of which the last one is to have the seq from.
func (s *store) moveMessage(ctx context.Context, m *nats.Msg, from uint64) (seq uint64, last *kept, err error) {
	return s.move(ctx, s.messages, m, s.names.of("*", m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]), from)
}

// claim takes the right to deliver a message; 0 where another has it. Of all who try, one gets it. It ends by its time: a server
// that has forgotten may hand out what was settled long after that.
func (s *store) claim(ctx context.Context, k *kept) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	header := nats.Header{headerStep: {rand.Text()}, headerTTL: {ttl(time.Duration(s.ackWait.Load()))}}
	m := &nats.Msg{Subject: s.names.claim(k.digest, k.Sequence), Header: header}
	seq, _, err := s.move(ctx, s.claims, m, m.Subject, 0)
	if errors.Is(err, errMoved) {
		return 0, nil
	}
	return seq, err
}

// ttl is a time as the server takes it: whole seconds, at least one.
func ttl(d time.Duration) string {
	return strconv.FormatInt(max(int64((d+time.Second-1)/time.Second), 1), 10) + "s"
}

// last reads the last message that matches a subject. It is nil where there is none.
func (s *store) last(ctx context.Context, in jetstream.Stream, subject string) (*kept, error) {
	return s.get(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return in.GetLastMsgForSubject(ctx, subject)
	})
}

func (s *store) lastOf(ctx context.Context, digest string) (*kept, error) {
	return s.last(ctx, s.messages, s.names.of("*", digest))
}

func (s *store) at(ctx context.Context, seq uint64) (*kept, error) {
	return s.get(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) { return s.messages.GetMsg(ctx, seq) })
}

func (s *store) first(ctx context.Context, state string) (*kept, error) {
	return s.get(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.messages.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(s.names.of(state, "*")))
	})
}

// get asks a stream's leader: the streams do not allow direct gets, which any replica answers, and one may be behind.
func (s *store) get(ctx context.Context, read func(context.Context) (*jetstream.RawStreamMsg, error)) (k *kept, err error) {
	err = s.ask(ctx, func(ctx context.Context) error {
		m, err := read(ctx)
		if err == nil {
			k = newKept(m.Subject, m.Sequence, m.Header, m.Data)
		}
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	return k, err
}

// remove removes one message. ErrNotFound.
func (s *store) remove(ctx context.Context, seq uint64) error {
	err := s.ask(ctx, func(ctx context.Context) error { return s.messages.DeleteMsg(ctx, seq) })
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) { // the client does not say why
		if k, failed := s.at(ctx, seq); failed == nil && k == nil {
			return inbox.ErrNotFound
		}
	}
	return err
}

// drop removes what is of no use any more. The server's word is not waited for: what is lost goes when it is handed out again.
func (s *store) drop(stream string, seq uint64) {
	err := s.connection.Publish("$JS.API.STREAM.MSG.DELETE."+stream, fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, seq))
	if err != nil && s.ctx.Err() == nil {
		s.logger.Debug("inbox could not remove a message", s.config.Error(err))
	}
}

func (s *store) ask(ctx context.Context, question func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, natsconn.RequestTimeout)
	defer cancel()
	err := question(bounded)
	s.connection.Heard(ctx, err)
	return err
}
