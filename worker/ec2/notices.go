package ec2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Notice says what is about to become of the instance.
type Notice struct {
	Kind Kind
	// At is when, as EC2 has it; zero if it does not say.
	At time.Time
	// What is EC2's word for it: terminate, stop, hibernate; or the code of a
	// scheduled event, such as system-reboot.
	What string
}

// Kind tells notices by what there is to do about them.
type Kind int

const (
	// Rebalance: the instance is likelier than others to be interrupted. It may
	// go on for hours, or not.
	Rebalance Kind = iota
	// Maintenance: EC2 will stop, retire or reboot the instance or its host.
	// That is announced days ahead as a rule.
	Maintenance
	// Interruption: EC2 takes a spot instance back, in two minutes or less.
	Interruption
)

func (n Notice) String() string {
	var text string
	switch n.Kind {
	case Rebalance:
		text = "EC2 recommends to replace the instance, which is at a higher risk of interruption"
	case Maintenance:
		text = "EC2 has scheduled maintenance of the instance (" + n.What + ")"
	default:
		text = "EC2 interrupts the instance (" + n.What + ")"
	}
	if !n.At.IsZero() {
		text += " at " + n.At.UTC().Format(time.RFC3339)
	}
	return text
}

// Watch looks for notices, waiting the time every in between, and tells each
// kind once. It returns when ctx ends, or after an interruption, since nothing
// comes after that.
func (m *Machine) Watch(ctx context.Context, every time.Duration, tell func(Notice)) {
	told := map[Kind]bool{}
	failing := false
	for {
		notices, err := m.notices(ctx)
		for _, n := range notices {
			if told[n.Kind] {
				continue
			}
			told[n.Kind] = true
			tell(n)
			if n.Kind == Interruption {
				return
			}
		}
		if err != nil && !failing && ctx.Err() == nil {
			m.log.Warn("the instance metadata service cannot be asked for notices; will go on trying", "err", err)
		}
		failing = err != nil
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return
		}
	}
}

// notices are all there are now, the most urgent first. An error is no reason
// not to believe those that are there.
func (m *Machine) notices(ctx context.Context) (list []Notice, err error) {
	for _, source := range []struct {
		path string
		read func(string) (Notice, bool, error)
	}{
		{"spot/instance-action", instanceAction},
		{"spot/termination-time", terminationTime}, // what there was before instance-action; only of use if that fails
		{"events/recommendations/rebalance", rebalance},
		{"events/maintenance/scheduled", scheduled},
	} {
		text, askErr := m.metadata(ctx, source.path)
		if askErr != nil {
			err = errors.Join(err, askErr)
			continue
		}
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		n, found, readErr := source.read(text)
		if readErr != nil {
			err = errors.Join(err, fmt.Errorf("meta-data/%s is not as expected: %w", source.path, readErr))
		}
		if found {
			list = append(list, n)
		}
	}
	return list, err
}

// instanceAction reads {"action": "terminate", "time": "2017-09-18T08:22:00Z"}.
// That it is there is the notice, whatever it says.
func instanceAction(text string) (Notice, bool, error) {
	var in struct {
		Action string    `json:"action"`
		Time   time.Time `json:"time"`
	}
	err := json.Unmarshal([]byte(text), &in)
	if in.Action == "" {
		in.Action = "unknown"
	}
	return Notice{Kind: Interruption, At: in.Time, What: in.Action}, true, err
}

// terminationTime reads 2015-01-05T18:02:00Z. Something that is no time may be
// left there from a notice that was withdrawn.
func terminationTime(text string) (Notice, bool, error) {
	at, err := time.Parse(time.RFC3339, text)
	return Notice{Kind: Interruption, At: at, What: "terminate"}, err == nil, nil
}

// rebalance reads {"noticeTime": "2020-10-27T08:22:00Z"}, which is when the
// recommendation was made.
func rebalance(string) (Notice, bool, error) {
	return Notice{Kind: Rebalance, What: "rebalance"}, true, nil
}

// scheduled reads a list of events, of which those that are over remain for a
// while. The first active one is as good as any.
func scheduled(text string) (Notice, bool, error) {
	var events []struct {
		Code, State string
		NotBefore   string // 21 Jan 2019 09:00:43 GMT
	}
	if err := json.Unmarshal([]byte(text), &events); err != nil {
		return Notice{}, false, err
	}
	for _, e := range events {
		if e.State == "active" {
			at, err := time.Parse("2 Jan 2006 15:04:05 MST", e.NotBefore)
			return Notice{Kind: Maintenance, At: at, What: e.Code}, true, err
		}
	}
	return Notice{}, false, nil
}
