//go:build !agent

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/taskfleet/taskfleet/blob"
)

// A contender copies all originals of a size to a new bucket.
type contender struct {
	name string
	took time.Duration // all rounds
	cpu  time.Duration
	copy func(ctx context.Context) (took, cpu time.Duration, err error)
}

// copying measures the copying of all sizes, and the memory that it takes.
func (m *mirrorSite) copying(ctx context.Context) error {
	peaks := map[string]int64{}
	var largest int64
	for _, size := range slices.Sorted(slices.Values(m.Sizes)) {
		if missing, err := m.room(size); err != nil {
			return err
		} else if missing != "" && m.Optional {
			m.leaveOut("%s", missing)
			continue
		} else if missing != "" {
			return errors.New(missing)
		}
		largest = size
		m.say("%s: writing %d originals", sizeName(size), m.objectsOf(size))
		if err := m.seed(ctx, m.keys(size, m.objectsOf(size)), size); err != nil {
			return err
		}
		for _, way := range []struct {
			name string
			to   *side
		}{{"server-side", m.home}, {"streamed", m.away}} {
			peak, err := m.race(ctx, sizeName(size)+", "+way.name, size, way.to)
			if err != nil {
				return err
			}
			peaks[way.name] = peak
		}
		if err := m.clear(ctx, m.originals, size); err != nil {
			return err
		}
	}
	for _, way := range []string{"server-side", "streamed"} {
		switch peak := peaks[way]; {
		case largest > 0 && peak == 0:
			m.leaveOut("memory: it can be measured on Linux only")
		case peak > 0:
			m.found(MirrorFigure{What: fmt.Sprintf("memory, %s %s", sizeName(largest), way), Unit: Bytes, Value: float64(peak), Goal: goalMemory})
		}
	}
	return nil
}

// room says what is missing for objects of a size to fit on the disk: the
// originals, and the copies of one contender at a time.
func (m *mirrorSite) room(size int64) (missing string, err error) {
	const spare = 1 << 30
	need := 2*size*int64(m.objectsOf(size)) + spare
	free, err := freeDisk(m.Directory)
	if err != nil || free >= need {
		return "", err
	}
	return fmt.Sprintf("objects of %s: they take %d MiB in %s, where %d MiB are free", sizeName(size), need>>20, m.Directory, free>>20), nil
}

// race has the mirror copy, and others, in turn.
func (m *mirrorSite) race(ctx context.Context, what string, size int64, to *side) (peak int64, err error) {
	keys := m.keys(size, m.objectsOf(size))
	ours := &contender{name: "mirror", copy: func(ctx context.Context) (took, cpu time.Duration, err error) {
		return m.byMirror(ctx, keys, size, to, &peak)
	}}
	loop := func(name string, blind bool) *contender {
		return &contender{name: name, copy: func(ctx context.Context) (took, cpu time.Duration, err error) {
			return m.byLoop(ctx, keys, size, to, blind)
		}}
	}
	plain, blind := loop("plain loop", false), loop("blind loop", true)
	all := []*contender{ours, plain}
	if to == m.home {
		all = append(all, blind)
	}
	const small = 64 << 10
	if m.Rclone != "" && size <= small {
		all = append(all, &contender{name: "rclone copy", copy: func(ctx context.Context) (took, cpu time.Duration, err error) {
			return m.byRclone(ctx, keys, size, to)
		}})
	}
	for round := range m.Rounds {
		for _, c := range all {
			m.say("%s: %s, round %d of %d", what, c.name, round+1, m.Rounds)
			took, cpu, err := c.copy(ctx)
			if err != nil {
				return 0, fmt.Errorf("%s: %s: %w", what, c.name, err)
			}
			c.took += took
			c.cpu += cpu
		}
		slices.Reverse(all)
	}
	done := float64(len(keys) * m.Rounds)
	f := MirrorFigure{What: what, Unit: ObjectsPerSecond, Value: done / ours.took.Seconds()}
	scale := 1.0
	if size >= 1<<20 {
		f.Unit, scale = BytesPerSecond, float64(size)
	}
	f.Value *= scale
	for _, c := range all {
		if c == ours {
			continue
		}
		f := f // one for each
		f.Against, f.Other = c.name, scale*done/c.took.Seconds()
		switch c {
		case plain:
			f.Goal = goalPlain
		case blind:
		default:
			f.Goal = goalRclone
		}
		if c == plain || c == blind {
			f.CPU, f.OtherCPU = ours.cpu/time.Duration(done), c.cpu/time.Duration(done)
		}
		m.found(f)
	}
	return peak, nil
}

// timed calls f, after all garbage of what went before is gone.
func timed(f func() error) (took, cpu time.Duration, err error) {
	debug.FreeOSMemory()
	before, _ := ownCPU()
	start := time.Now()
	err = f()
	took = time.Since(start)
	after, _ := ownCPU()
	return took, after - before, err
}

func (m *mirrorSite) byMirror(ctx context.Context, keys []string, size int64, to *side, peak *int64) (took, cpu time.Duration, err error) {
	target, err := m.bucket(ctx, to)
	if err != nil {
		return 0, 0, err
	}
	s, err := m.stand(ctx, target, nil)
	if err != nil {
		return 0, 0, err
	}
	debug.FreeOSMemory()
	measured := forgetPeak() == nil
	took, cpu, err = timed(func() error { return s.copy(ctx, m.originals.Name(), keys) })
	if measured && err == nil {
		var most int64
		most, err = peakMemory()
		*peak = max(*peak, most)
	}
	return took, cpu, errors.Join(err, s.close(), m.clear(ctx, target, size))
}

// byLoop is the plain loop, or the blind one.
func (m *mirrorSite) byLoop(ctx context.Context, keys []string, size int64, to *side, blind bool) (took, cpu time.Duration, err error) {
	target, err := m.bucket(ctx, to)
	if err != nil {
		return 0, 0, err
	}
	h := blob.Headers{ContentType: "application/octet-stream"}
	one := func(ctx context.Context, key string) error {
		etag := ""
		if !blind {
			o, err := m.originals.Stat(ctx, key)
			if err != nil {
				return err
			}
			etag = o.ETag
		}
		_, err := target.Copy(ctx, key, m.originals, key, etag, h)
		return err
	}
	if !target.CanCopyFrom(m.originals) {
		one = func(ctx context.Context, key string) error {
			in, err := m.originals.Get(ctx, key, blob.Range{})
			if err != nil {
				return err
			}
			defer in.Close()
			if in.Length > blob.PartSize {
				_, err = target.Put(ctx, key, in, h)
				return err
			}
			body := make([]byte, in.Length)
			if _, err := io.ReadFull(in, body); err != nil {
				return err
			}
			_, err = target.PutBytes(ctx, key, body, h)
			return err
		}
	}
	took, cpu, err = timed(func() error { return m.each(ctx, keys, one) })
	return took, cpu, errors.Join(err, m.clear(ctx, target, size))
}

// byRclone has it copy what is below a prefix, as it does by default but for the
// number of transfers, and that it lists in the newer way, which is the only one
// that the gateway knows. Between buckets of a gateway the gateway copies.
func (m *mirrorSite) byRclone(ctx context.Context, keys []string, size int64, to *side) (took, cpu time.Duration, err error) {
	target, err := m.bucket(ctx, to)
	if err != nil {
		return 0, 0, err
	}
	first, err := blob.Spell(keys[0])
	if err != nil {
		return 0, 0, err
	}
	directory := first[:len(first)-len("/0")]
	from, into := "HOME:"+m.originals.Name()+"/"+directory, "HOME:"+target.Name()
	if to != m.home {
		into = "AWAY:" + target.Name()
	}
	n := strconv.Itoa(m.Transfers)
	cmd := exec.CommandContext(ctx, m.Rclone, "copy", from, into, "--config", "", "--transfers", n, "--checkers", n)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.Directory} // no settings but ours
	for name, s := range map[string]*side{"HOME": m.home, "AWAY": m.away} {
		for key, value := range map[string]string{
			"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": s.config.Endpoint, "REGION": s.config.Region,
			"FORCE_PATH_STYLE": "true", "LIST_VERSION": "2", "NO_CHECK_BUCKET": "true",
			"ACCESS_KEY_ID": s.config.AccessKeyID, "SECRET_ACCESS_KEY": s.config.SecretAccessKey,
		} {
			cmd.Env = append(cmd.Env, "RCLONE_CONFIG_"+name+"_"+key+"="+value)
		}
	}
	took, cpu, err = timed(func() error {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %.500s", err, out)
		}
		return nil
	})
	if err != nil {
		return took, cpu, err
	}
	copied := 0
	for _, err := range target.List(ctx, "") {
		if err != nil {
			return took, cpu, err
		}
		copied++
	}
	if copied != len(keys) {
		return took, cpu, fmt.Errorf("it has copied %d objects of %d", copied, len(keys))
	}
	return took, cpu, m.clear(ctx, target, size)
}
