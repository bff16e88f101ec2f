package notify

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestARefusalReachesTheCallerAndIsNotTriedAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.rooms.set(func(RoomMessage) error { return &Refusal{"invite it first"} })
		message := body{"roomId": room, "body": "x"}
		w.want(400, "POST", "/matrix", message, "invite it first")
		time.Sleep(time.Hour / 2)
		if n := w.rooms.tried(); n != 1 || w.waitingIn() != 0 {
			t.Errorf("tried %d times, %d wait", n, w.waitingIn())
		}
		w.rooms.set(nil)
		w.want(200, "POST", "/matrix", message, "") // nothing was sent before, so it is no duplicate
		w.wantCount(byMatrix, refusal, 1)
		w.wantCount(byMatrix, sent, 1)
	})
}

func TestWhatFailsIsTriedAgainUntilItSucceeds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.slacks.set(func(ChannelMessage) error { return errors.New("connection refused") })
		w.want(200, "POST", "/slack", body{"channelId": channel, "text": "x"}, "")
		time.Sleep(2 * time.Hour)
		if tries := w.slacks.tried(); tries < 6 || tries > 20 {
			t.Errorf("tried %d times in two hours", tries)
		}
		if got := w.waitingIn(); got != 1 {
			t.Fatalf("%d messages wait", got)
		}
		w.slacks.set(nil)
		time.Sleep(2 * time.Hour)
		if len(w.slacks.all()) != 1 || w.waitingIn() != 0 {
			t.Errorf("sent %d, %d wait", len(w.slacks.all()), w.waitingIn())
		}
	})
}

func TestAMessageThatMakesItsSenderPanicIsDropped(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.mails.set(func(m Mail) error {
			if m.Subject == "Boom" {
				panic("boom")
			}
			return nil
		})
		for _, subject := range []string{"Boom", "Done"} {
			if err := w.Email(t.Context(), ann, subject, "text"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		if got := w.mails.all(); len(got) != 1 || got[0].Subject != "Done" || w.mails.tried() != 2 || w.waitingIn() != 0 {
			t.Errorf("sent %v, tried %d, %d wait", got, w.mails.tried(), w.waitingIn())
		}
	})
}

func TestWhatCannotBeSentWithinADayIsGivenUp(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.mails.set(func(Mail) error { return errors.New("no route to host") })
		w.want(200, "POST", "/email", emailBody("Done"), "")
		age := func(d time.Duration) {
			if err := db.Do(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`UPDATE notify_message SET created = created - $1`, d.Milliseconds())
				return err
			}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(15 * time.Minute)
		}
		age(23 * time.Hour)
		if w.waitingIn() != 1 {
			t.Fatal("given up too early")
		}
		age(time.Hour)
		if w.waitingIn() != 0 || w.log.count("notification given up after a day") != 1 || w.log.count("no route to host") == 0 {
			t.Errorf("%d wait; log %d", w.waitingIn(), w.log.count("notification given up after a day"))
		}
		w.wantCount(byEmail, givenUp, 1)
		tries := w.mails.tried()
		time.Sleep(2 * time.Hour)
		if w.mails.tried() != tries {
			t.Error("it is tried still")
		}
		for _, table := range []string{"notify_recent", "notify_rate"} {
			var n int
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				return tx.QueryRow(`SELECT count(*) FROM ` + table).Scan(&n)
			}); err != nil || n != 0 {
				t.Errorf("%s has %d rows, %v", table, n, err)
			}
		}
	})
}

func TestADelayHoldsForAllMessagesToTheAddress(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		busy := true
		w.slacks.set(func(m ChannelMessage) error {
			if busy && m.ChannelID == channel {
				return &Delay{After: 5 * time.Minute, Reason: "slowly"}
			}
			return nil
		})
		w.want(200, "POST", "/slack", body{"channelId": channel, "text": "1"}, "")
		w.want(200, "POST", "/slack", body{"channelId": channel, "text": "2"}, "")
		w.want(200, "POST", "/slack", body{"channelId": "C2", "text": "3"}, "")
		if len(w.slacks.all()) != 1 {
			t.Error("another channel had to wait")
		}
		time.Sleep(4 * time.Minute)
		if n := w.slacks.tried(); n != 3 {
			t.Errorf("tried %d times although Slack asked to wait", n)
		}
		w.slacks.set(nil)
		time.Sleep(2 * time.Minute)
		if len(w.slacks.all()) != 3 {
			t.Errorf("sent %d", len(w.slacks.all()))
		}
	})
}

// When the service is down, a pass asks it once or so and not once for every
// message; when it is up again, all goes out.
func TestAServiceThatIsDownIsNotAskedForEachMessage(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, func(c *Config) { c.EmailLimit = 1000 })
		w.mails.set(func(Mail) error { return errors.New("down") })
		for i := range 120 {
			if err := w.Email(t.Context(), ann, fmt.Sprint(i), "text"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if n := w.mails.tried(); n > 40 {
			t.Errorf("asked %d times in a minute", n)
		}
		w.mails.set(nil)
		time.Sleep(2 * time.Minute)
		w.settle()
		seen := map[string]int{}
		for _, m := range w.mails.all() {
			seen[m.Subject]++
		}
		if len(seen) != 120 || len(w.mails.all()) != 120 {
			t.Errorf("%d different emails of 120, %d in all", len(seen), len(w.mails.all()))
		}
	})
}

func TestOneMessageThatAlwaysFailsDoesNotHoldUpTheOthers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.mails.set(func(m Mail) error {
			if m.Subject == "poison" {
				return errors.New("internal error")
			}
			return nil
		})
		for _, s := range []string{"poison", "a", "b", "c"} {
			if err := w.Email(t.Context(), ann, s, "text"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Minute)
		if len(w.mails.all()) != 3 || w.waitingIn() != 1 {
			t.Errorf("sent %d, %d wait", len(w.mails.all()), w.waitingIn())
		}
	})
}

// A process that dies in the middle of an attempt leaves the message reserved;
// when the reservation ends, another one sends it, under the same id.
func TestAnAttemptThatNobodyFinishedIsMadeAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		var id string
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			wait, _, err := w.accept(tx, &letter{Address: ann, Subject: "Done", Content: "text", Template: simple}, now().Add(reservation))
			if err == nil {
				id = wait.id
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(reservation - time.Second)
		if w.mails.tried() != 0 {
			t.Error("it was sent while it was reserved")
		}
		time.Sleep(pollInterval + time.Second)
		if m := w.mails.all(); len(m) != 1 || m[0].ID != id {
			t.Errorf("mails %+v, want the id %s", m, id)
		}
	})
}

func TestTwoReplicasSendAMessageOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db) // its runner holds no lease, as if it had just lost it
		w.mails.set(func(Mail) error { time.Sleep(time.Second); return nil })
		for i := range 20 {
			if err := w.Email(t.Context(), ann, fmt.Sprint(i), "text"); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			if _, err := w.deliver(t.Context(), byEmail); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Minute)
		if n := len(w.mails.all()); n != 20 {
			t.Errorf("20 emails were sent %d times", n)
		}
	})
}

func TestEmailsOfThePlatformAreCutToFit(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		long := make([]byte, 200_000)
		for i := range long {
			long[i] = 'x'
		}
		if err := w.Email(t.Context(), ann, "Hook\nfailed "+string(long[:300]), string(long)); err != nil {
			t.Fatal(err)
		}
		if err := w.Email(t.Context(), "not an address", "Hook failed", "text"); err == nil {
			t.Error("a bad address was accepted")
		}
		w.settle()
		m := w.mails.all()
		if len(m) != 1 || m[0].Subject[:12] != "Hook failed " || len(m[0].Subject) > 260 || len(m[0].Text) > 110_000 {
			t.Fatalf("%d mails", len(m))
		}
	})
}

func TestAStopInTheMiddleOfAnAttemptLosesNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		ctx, stop := context.WithCancel(t.Context())
		n := w.Notify
		n.senders[byEmail] = func(ctx context.Context, _ string, _ []byte) error {
			stop()
			<-ctx.Done()
			return ctx.Err()
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, _, err := w.accept(tx, &letter{Address: ann, Subject: "Done", Content: "text", Template: simple}, now().Add(time.Millisecond))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
		if _, err := n.deliver(ctx, byEmail); !errors.Is(err, context.Canceled) {
			t.Errorf("deliver: %v", err)
		}
		if w.waitingIn() != 1 {
			t.Error("the message is lost")
		}
	})
}
