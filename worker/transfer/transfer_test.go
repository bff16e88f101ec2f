package transfer

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatStandsStillIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ctx, progress, stop := Watch(t.Context(), time.Minute)
		defer stop()
		for range 10 {
			time.Sleep(50 * time.Second)
			progress()
		}
		<-ctx.Done()
		if got := time.Since(begin); got != 560*time.Second {
			t.Errorf("given up after %v", got)
		}
		if err := Cause(ctx, context.Canceled); err.Error() != "nothing moved for 1m0s" {
			t.Errorf("cause is %v", err)
		}
	})
}

func TestPausesGrowToABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pause
		begin := time.Now()
		for range 1000 {
			if err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if mean := time.Since(begin) / 1000; mean < 8*time.Second || mean > 12*time.Second {
			t.Errorf("the pauses are %v in the mean", mean)
		}
		over := errors.New("over")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(over)
		if err := p.Wait(ctx); !errors.Is(err, over) {
			t.Errorf("err is %v", err)
		}
	})
}

func TestSecretsOfURLsAreNotTold(t *testing.T) {
	if got := Bare("https://user:password@example.com/a/b?signature=secret#x"); got != "https://example.com/a/b" {
		t.Errorf("Bare is %q", got)
	}
	if got := Bare("http://%zz?secret"); got != "a malformed URL" {
		t.Errorf("Bare is %q", got)
	}
	broken := &url.Error{Op: "Get", URL: "http://example.com/?signature=secret", Err: errors.New("connection reset")}
	if got := Cause(t.Context(), broken).Error(); got != "connection reset" {
		t.Errorf("Cause is %q", got)
	}
}
