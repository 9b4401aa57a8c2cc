package sandbox_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// A merchant's address takes a notify at the second attempt.
func Example() {
	attempts := 0
	merchant := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if attempts++; attempts == 1 {
			_, _ = io.WriteString(w, "FAILED")
			return
		}
		_, _ = io.WriteString(w, "SUCCESS")
	}))
	defer merchant.Close()

	platform, err := sandbox.New(sandbox.Options{Schedule: []time.Duration{time.Millisecond}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer platform.Close()
	order := platform.Options().SourceCode + "202601010000001"
	if err := platform.Deduct(sandbox.Deduction{MerOrderID: order, TotalAmount: 1234, NotifyURL: merchant.URL}); err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := platform.WaitDelivered(ctx, order, sandbox.KindDeduction); err != nil {
		fmt.Println(err)
		return
	}
	for _, delivery := range platform.Deliveries() {
		fmt.Println(delivery.Kind, delivery.Attempt, delivery.Status, delivery.Answer)
	}
	// Output:
	// deduction 1 200 FAILED
	// deduction 2 200 SUCCESS
}

// A notify of an imaginary order, for an address of one's own.
func ExampleNotify_Build() {
	message, err := sandbox.Notify{
		Kind: sandbox.KindPayment, Variant: sandbox.JSON, Key: "the communication key", Fields: map[string]string{"mid": "898340149000005"},
	}.Build()
	fmt.Println(err, message.ContentType, bytes.Contains(message.Body, []byte(`"mid":"898340149000005"`)))
	// Output: <nil> application/json; charset=UTF-8 true
}
