package inbound

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// What becomes of an event that the platform was asked about: the values of Ce-Confirmed.
const (
	Confirmed  = "true"
	Superseded = "superseded" // the platform is at a later state of the same order
)

// Reasons why an event is not confirmed.
const (
	ReasonContradicted  = "contradicted"
	ReasonNotAnswered   = "not_answered"
	ReasonNotComparable = "not_comparable"
)

// Contradiction is what the platform says against a notify. It names the field, and no value: it is logged.
type Contradiction string

func (c Contradiction) Error() string { return string(c) }

// ErrNotComparable is the error of an answer that a notify cannot be compared with.
var ErrNotComparable = errors.New("not comparable")

// Differs is the contradiction of a field.
func Differs(name string) error { return Contradiction(name + " is not what the platform says") }

// Missing is the error of a field that the notify or the answer lacks.
func Missing(name string) error { return fmt.Errorf("%w: %s is missing", ErrNotComparable, name) }

// Confirm asks the platform, and compares a notify with the answer: it returns the value of Ce-Confirmed, or why the
// notify is not believed.
//
// The platform is asked about an order and not about a notify: each notify is compared with the answer anew. An answer
// that is older than the notify proves nothing against it, which may tell of what has happened since.
func (q *Questions[Answer]) Confirm(now time.Time, topic Topic, patience time.Duration,
	ask func(context.Context) (Answer, error), compare func(Answer) (string, error)) (confirmed string, rejected *Rejection) {
	answer, fresh, err := q.Ask(now, topic, patience, ask)
	if err == nil {
		confirmed, err = compare(answer)
	}
	if err == nil {
		return confirmed, nil
	}
	rejected = &Rejection{Status: http.StatusServiceUnavailable, Reason: ReasonNotAnswered, Detail: err}
	_, contradicts := errors.AsType[Contradiction](err)
	switch {
	case errors.Is(err, ErrNotComparable):
		rejected.Reason = ReasonNotComparable
	case contradicts && fresh:
		rejected.Status, rejected.Reason = http.StatusConflict, ReasonContradicted
	case contradicts:
		rejected.Detail = fmt.Errorf("the platform has answered before this notify came, and is not asked again within a minute: %w", err)
	}
	return "", rejected
}
