package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

// controlPath is where the control interface is; see [ChinaUMS.UI].
const controlPath = "/sandbox/"

// controlled is what both platforms can be told to do.
type controlled interface {
	Orders() []Order
	Pay(number string) error
	PayClosed(number string) error
	Refund(number string, amount int64) (string, error)
	FinishRefund(number, status string) error
	Notify(ctx context.Context, number string, kind Kind, variant Variant) (Delivery, error)
	Break(faults ...Fault)
	Faults() []Fault
	Heal(kinds ...FaultKind)
	CloseOrder(number string) error
	Pass(d time.Duration)
}

// controlOrder is the body of what is posted.
type controlOrder struct {
	Number  string `json:"number"`
	Closed  bool   `json:"closed"`
	Amount  int64  `json:"amount"`
	Status  string `json:"status"`
	Kind    string `json:"kind"`
	Variant string `json:"variant"`
	For     string `json:"for"`
}

// errBadControl is a request that makes no sense, whatever the orders are.
type errBadControl struct{ error }

// control adds the control interface.
func control(mux *http.ServeMux, platform controlled) {
	mux.HandleFunc("GET /sandbox/orders", func(w http.ResponseWriter, r *http.Request) {
		orders := platform.Orders()
		if number := r.URL.Query().Get("number"); number != "" {
			orders = slices.DeleteFunc(orders, func(o Order) bool { return !o.named(number) })
		}
		writeControl(w, map[string]any{"orders": orders}, nil)
	})
	mux.HandleFunc("GET /sandbox/faults", func(w http.ResponseWriter, _ *http.Request) {
		writeControl(w, map[string]any{"faults": platform.Faults()}, nil)
	})
	mux.HandleFunc("DELETE /sandbox/faults", func(w http.ResponseWriter, r *http.Request) {
		var kinds []FaultKind
		if name := r.URL.Query().Get("kind"); name != "" {
			kinds = make([]FaultKind, 1)
			if err := kinds[0].UnmarshalText([]byte(name)); err != nil {
				writeControl(w, nil, errBadControl{err})
				return
			}
		}
		platform.Heal(kinds...)
		writeControl(w, map[string]any{"faults": platform.Faults()}, nil)
	})
	mux.HandleFunc("POST /sandbox/faults", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err == nil && !bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
			body = slices.Concat([]byte("["), body, []byte("]"))
		}
		var faults []Fault
		if err == nil {
			err = json.Unmarshal(body, &faults)
		}
		if err != nil {
			writeControl(w, nil, errBadControl{err})
			return
		}
		platform.Break(faults...)
		writeControl(w, map[string]any{"faults": platform.Faults()}, nil)
	})
	for path, do := range map[string]func(ctx context.Context, in controlOrder) (any, error){
		"pay": func(_ context.Context, in controlOrder) (any, error) {
			if in.Closed {
				return nil, platform.PayClosed(in.Number)
			}
			return nil, platform.Pay(in.Number)
		},
		"close": func(_ context.Context, in controlOrder) (any, error) {
			return nil, platform.CloseOrder(in.Number)
		},
		"refund": func(_ context.Context, in controlOrder) (any, error) {
			number, err := platform.Refund(in.Number, in.Amount)
			return map[string]string{"refundOrderId": number}, err
		},
		"finish": func(_ context.Context, in controlOrder) (any, error) {
			return nil, platform.FinishRefund(in.Number, in.Status)
		},
		"notify": func(ctx context.Context, in controlOrder) (any, error) {
			kind, err := ParseKind(in.Kind)
			if err != nil {
				return nil, errBadControl{err}
			}
			variant, err := ParseVariant(cmp.Or(in.Variant, "genuine"))
			if err != nil {
				return nil, errBadControl{err}
			}
			sent, err := platform.Notify(ctx, in.Number, kind, variant)
			return map[string]any{"status": sent.Status, "answer": sent.Answer, "accepted": sent.Delivered, "error": sent.Err}, err
		},
		"pass": func(_ context.Context, in controlOrder) (any, error) {
			d, err := time.ParseDuration(in.For)
			if err == nil && d < 0 {
				err = errors.New("time does not go backwards")
			}
			if err != nil {
				return nil, errBadControl{err}
			}
			platform.Pass(d)
			return nil, nil
		},
	} {
		mux.HandleFunc("POST /sandbox/"+path, func(w http.ResponseWriter, r *http.Request) {
			decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10))
			decoder.DisallowUnknownFields()
			var in controlOrder
			if err := decoder.Decode(&in); err != nil {
				writeControl(w, nil, errBadControl{fmt.Errorf("the body is no such JSON object: %w", err)})
				return
			}
			out, err := do(r.Context(), in)
			writeControl(w, out, err)
		})
	}
}

// named reports whether a number is the order's, the bill's or a refund's of it.
func (o Order) named(number string) bool {
	return number == o.MerOrderID || number == o.BillNo || number == o.SN ||
		slices.ContainsFunc(o.Refunds, func(r Refund) bool { return r.RefundOrderID == number })
}

// writeControl answers a request to the control interface.
func writeControl(w http.ResponseWriter, out any, err error) {
	status := http.StatusOK
	if err != nil {
		status, out = http.StatusConflict, map[string]string{"error": err.Error()}
		if errors.As(err, new(errBadControl)) {
			status = http.StatusBadRequest
		}
	}
	if out == nil {
		out = map[string]any{}
	}
	body, err := json.Marshal(out)
	if err != nil {
		panic(err) // plain values only
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// Interface guards
var (
	_ controlled = (*ChinaUMS)(nil)
	_ controlled = (*Shouqianba)(nil)
)
