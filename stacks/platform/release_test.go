package platform_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/stacks/platform"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

func TestMain(m *testing.M) {
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		if err := os.Setenv(k, v); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

const name = region + "/prod/prod"

// A thing is used as the provider uses it.
type thing struct {
	provider.Kind
	name  string
	state json.RawMessage
}

func newThing(o platform.Options, token, name string) *thing {
	for _, k := range platform.Kinds(o) {
		if k.Token() == "taskfleet:platform:"+token {
			return &thing{Kind: k, name: name}
		}
	}
	panic("there is no kind " + token)
}

// up makes the thing as a spec says, which differs if there is something to do.
func (x *thing) up(ctx context.Context, spec any) (differs bool, err error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return false, err
	}
	normal, err := x.Normal(x.name, text)
	if err != nil {
		return false, err
	}
	if x.state == nil {
		there, err := x.Read(ctx, x.name, normal)
		if err != nil {
			return false, err
		}
		if there != nil {
			x.state = there
			want, err := x.Complete(normal, there)
			if err == nil && string(want) != string(there) {
				err = errors.New("is there already, and differs")
			}
			return false, err
		}
		state, err := x.Create(ctx, x.name, normal)
		x.keep(state)
		return true, err
	}
	want, err := x.Complete(normal, x.state)
	if err != nil || string(want) == string(x.state) {
		return false, err
	}
	state, err := x.Update(ctx, x.name, x.state, normal)
	x.keep(state)
	return true, err
}

func (x *thing) keep(state json.RawMessage) {
	if state != nil {
		x.state = state
	}
}

// refresh reads the thing, and tells whether it has changed.
func (x *thing) refresh(t *testing.T) bool {
	t.Helper()
	is, err := x.Read(t.Context(), x.name, x.state)
	if err != nil {
		t.Fatal(err)
	}
	changed := string(is) != string(x.state)
	x.state = is
	return changed
}

func (x *thing) member(t *testing.T, name string) string {
	t.Helper()
	members := map[string]any{}
	if err := json.Unmarshal(x.state, &members); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(members[name])
}

func spec(image string, versions map[string]string) platform.ReleaseSpec {
	return platform.ReleaseSpec{Image: image, Template: prefix + "task-definition/prod:1", Versions: versions}
}

// runs is what the service runs, by the number of the revision and its definition.
func (m *imitation) runs() (string, object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.service.taskDefinition[strings.LastIndex(m.service.taskDefinition, ":")+1:], m.find(m.service.taskDefinition).definition
}

func TestAReleaseIsRolledOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		var told []string
		r := newThing(platform.Options{Transport: m, Progress: func(_ context.Context, of, text string) { told = append(told, of+": "+text) }}, "Release", name)
		if _, err := r.up(t.Context(), spec("taskfleet:1", map[string]string{platformSecret: "v1", serverSecret: "s1"})); err != nil {
			t.Fatal(err)
		}
		number, d := m.runs()
		if number != "2" || containerOf(d, "taskfleet")["image"] != "taskfleet:1" || containerOf(d, "files")["image"] != "aws-cli:2" {
			t.Errorf("revision %s: %v", number, d)
		}
		if got := environmentOf(d, "files", "MORE_CONFIGURATION"); got != platformSecret+"#v1 "+mirrorSecret {
			t.Errorf("the servers read %v", got)
		}
		for member, want := range template() {
			if member != "containerDefinitions" && fmt.Sprint(d[member]) != fmt.Sprint(want) {
				t.Errorf("%s is %v, and in the template %v", member, d[member], want)
			}
		}
		if r.member(t, "taskDefinition") != prefix+"task-definition/prod:2" {
			t.Errorf("state: %s", r.state)
		}
		all := strings.Join(told, "\n")
		for _, want := range []string{name + ": registered prod:2", "rolling out prod:2", "prod:2: 1 of 2 replicas run; 1 of before", "prod:2 runs, 2 replicas"} {
			if !strings.Contains(all, want) {
				t.Errorf("%q was not told:\n%s", want, all)
			}
		}
		if differs, err := r.up(t.Context(), spec("taskfleet:1", map[string]string{platformSecret: "v1", serverSecret: "s1"})); err != nil || differs {
			t.Errorf("the same again: %t, %v", differs, err)
		}
		// A version that is no part of the configuration is a reason to start anew, too.
		if _, err := r.up(t.Context(), spec("taskfleet:1", map[string]string{platformSecret: "v1", serverSecret: "s2"})); err != nil {
			t.Fatal(err)
		}
		if number, _ := m.runs(); number != "3" || m.asked["UpdateService"] != 2 {
			t.Errorf("revision %s after %d updates", number, m.asked["UpdateService"])
		}
		m.desired = 0
		if _, err := r.up(t.Context(), spec("taskfleet:2", nil)); err != nil || !strings.HasSuffix(told[len(told)-1], "whether it runs was not tried") {
			t.Errorf("%v, %q", err, told)
		}
	})
}

func TestSeveralStacksReleaseOneService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		o := platform.Options{Transport: m}
		first, second := newThing(o, "Release", name), newThing(o, "Release", name)
		if _, err := first.up(t.Context(), spec("taskfleet:1", map[string]string{platformSecret: "p1"})); err != nil {
			t.Fatal(err)
		}
		if _, err := second.up(t.Context(), spec("taskfleet:1", map[string]string{mirrorSecret: "m1"})); err != nil {
			t.Fatal(err)
		}
		reads := func(want string) {
			t.Helper()
			if _, d := m.runs(); environmentOf(d, "files", "MORE_CONFIGURATION") != want {
				t.Errorf("the servers read %v, want %s", environmentOf(d, "files", "MORE_CONFIGURATION"), want)
			}
		}
		reads(platformSecret + "#p1 " + mirrorSecret + "#m1")
		first.refresh(t)
		if differs, err := first.up(t.Context(), spec("taskfleet:1", map[string]string{platformSecret: "p1"})); err != nil || differs {
			t.Errorf("the first one is changed by the second: %t, %v", differs, err)
		}
		if _, err := first.up(t.Context(), spec("taskfleet:2", map[string]string{platformSecret: "p2"})); err != nil {
			t.Fatal(err)
		}
		reads(platformSecret + "#p2 " + mirrorSecret + "#m1")
		// The second has nothing to do for an image that the first has rolled out.
		before := m.asked["UpdateService"]
		if _, err := second.up(t.Context(), spec("taskfleet:2", map[string]string{mirrorSecret: "m1"})); err != nil || m.asked["UpdateService"] != before {
			t.Errorf("it was rolled out twice: %v", err)
		}
		if err := second.Delete(t.Context(), name, second.state); err != nil {
			t.Fatal(err)
		}
		reads(platformSecret + "#p2")
		if _, d := m.runs(); containerOf(d, "taskfleet")["image"] != "taskfleet:2" {
			t.Error("the servers run another image")
		}
		// What does not run well is not waited for.
		m.service.deployments[0].state = "FAILED"
		begin := time.Now()
		if err := first.Delete(t.Context(), name, first.state); err != nil || time.Since(begin) > time.Second {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		reads("")
		m.service.taskDefinition = m.revisions[0].arn // the foundation was made anew
		if err := first.Delete(t.Context(), name, first.state); err != nil || m.service.taskDefinition != m.revisions[0].arn {
			t.Errorf("what was not released is withdrawn: %v", err)
		}
	})
}

func TestAReleaseThatFailsIsTakenBack(t *testing.T) {
	for _, c := range []struct {
		name, image string // that fails
		breaker     bool
		inactive    bool // whether what ran before was deregistered meanwhile
		runs        string
		wants       []string
	}{
		{"ECS goes back", "taskfleet:crash", true, false, "2", []string{"circuit breaker", "Essential container in task exited; taskfleet has exit code 1",
			"aws logs tail /taskfleet/prod --log-stream-names taskfleet/taskfleet/0123456789abcdef", "unable to consistently start tasks", "The service runs prod:2 again, as before."}},
		{"we go back", "taskfleet:crash", false, false, "2", []string{"not complete after 5m0s", "taskfleet has exit code 1", "The service runs prod:2 again, as before."}},
		{"it never gets ready", "taskfleet:hang", true, false, "2", []string{"not complete after 5m0s", "The service runs prod:2 again, as before."}},
		{"what ran before is registered anew", "taskfleet:hang", true, true, "4", []string{"The service runs prod:4 again, as before."}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newImitation()
				m.breaker = c.breaker
				m.images["taskfleet:crash"], m.images["taskfleet:hang"] = "crash", "hang"
				r := newThing(platform.Options{Transport: m}, "Release", name)
				good, bad := spec("taskfleet:1", map[string]string{platformSecret: "v1"}), spec(c.image, map[string]string{platformSecret: "v2"})
				bad.Timeout = "5m"
				if _, err := r.up(t.Context(), good); err != nil {
					t.Fatal(err)
				}
				before := string(r.state)
				if c.inactive {
					m.revisions[1].status = "INACTIVE"
				}
				_, err := r.up(t.Context(), bad)
				for _, want := range append(c.wants, "the release of prod:3 has failed") {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("%v\nwant %s", err, want)
					}
				}
				number, d := m.runs()
				if number != c.runs || containerOf(d, "taskfleet")["image"] != "taskfleet:1" || environmentOf(d, "files", "MORE_CONFIGURATION") != platformSecret+"#v1 "+mirrorSecret {
					t.Errorf("the service runs revision %s: %v", number, d)
				}
				if string(r.state) != before {
					t.Errorf("the state is %s, and was %s", r.state, before)
				}
				// The same again tries again, with the same revision, and succeeds once its cause is gone.
				m.images[c.image] = ""
				if _, err := r.up(t.Context(), bad); err != nil {
					t.Error(err)
				}
				if number, d := m.runs(); containerOf(d, "taskfleet")["image"] != c.image || !c.inactive && number != "3" {
					t.Errorf("the service runs revision %s: %v", number, d)
				}
			})
		})
	}
}

// Of a rollout that was under way nobody knows whether it would have run, so it is not what is gone back to.
func TestAReleaseDuringAnotherGoesBackToWhatHasRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		m.images["taskfleet:hang"], m.images["taskfleet:crash"] = "hang", "crash"
		r := newThing(platform.Options{Transport: m}, "Release", name)
		if _, err := r.up(t.Context(), spec("taskfleet:1", nil)); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		defer stop()
		if _, err := r.up(ctx, spec("taskfleet:hang", nil)); err == nil {
			t.Fatal("it was not interrupted")
		}
		s := spec("taskfleet:crash", nil)
		s.Timeout = "2m"
		if _, err := r.up(t.Context(), s); err == nil || !strings.Contains(err.Error(), "The service runs prod:2 again, as before.") {
			t.Error(err)
		}
	})
}

func TestConfigurationThatIsTakenOutIsReadNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		o := platform.Options{Transport: m}
		first, second := newThing(o, "Release", name), newThing(o, "Release", name)
		if _, err := first.up(t.Context(), spec("taskfleet:1", map[string]string{platformSecret: "p1", serverSecret: "s1"})); err != nil {
			t.Fatal(err)
		}
		if _, err := second.up(t.Context(), spec("taskfleet:1", map[string]string{mirrorSecret: "m1"})); err != nil {
			t.Fatal(err)
		}
		first.refresh(t)
		if _, err := first.up(t.Context(), spec("taskfleet:1", map[string]string{serverSecret: "s1"})); err != nil {
			t.Fatal(err)
		}
		if _, d := m.runs(); environmentOf(d, "files", "MORE_CONFIGURATION") != mirrorSecret+"#m1" {
			t.Errorf("the servers read %v", environmentOf(d, "files", "MORE_CONFIGURATION"))
		}
		if first.refresh(t) || first.member(t, "versions") != "map["+serverSecret+":s1]" {
			t.Errorf("the state is %s", first.state)
		}
		if _, err := first.up(t.Context(), spec("taskfleet:1", map[string]string{platformSecret: "p1", serverSecret: "s1"})); err != nil {
			t.Fatal(err)
		}
		if _, d := m.runs(); environmentOf(d, "files", "MORE_CONFIGURATION") != platformSecret+"#p1 "+mirrorSecret+"#m1" {
			t.Errorf("put back, the servers read %v", environmentOf(d, "files", "MORE_CONFIGURATION"))
		}
	})
}

// The foundation deregisters a template when it makes another.
func TestAReleaseOfAStaleManifestIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		r := newThing(platform.Options{Transport: m}, "Release", name)
		if _, err := r.up(t.Context(), spec("taskfleet:1", map[string]string{platformSecret: "p1"})); err != nil {
			t.Fatal(err)
		}
		m.revisions[0].status = "INACTIVE"
		_, err := r.up(t.Context(), spec("taskfleet:2", nil))
		fails(t, err, "the manifest is stale")
		if err := r.Delete(t.Context(), name, r.state); err != nil {
			t.Errorf("it cannot be withdrawn either: %v", err)
		}
		if _, d := m.runs(); environmentOf(d, "files", "MORE_CONFIGURATION") != mirrorSecret {
			t.Errorf("the servers read %v", environmentOf(d, "files", "MORE_CONFIGURATION"))
		}
	})
}

func TestTheFirstReleaseOfServersThatNeverRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		m.service.deployments[0].state = "FAILED"
		m.images["taskfleet:crash"] = "crash"
		r := newThing(platform.Options{Transport: m}, "Release", name)
		begin := time.Now()
		s := spec("taskfleet:crash", nil)
		s.Timeout = "2m"
		if _, err := r.up(t.Context(), s); err == nil || !strings.Contains(err.Error(), "which has not run well before either") || time.Since(begin) > 3*time.Minute {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		if r.state != nil {
			t.Errorf("it has a state: %s", r.state)
		}
		if _, err := r.up(t.Context(), spec("taskfleet:1", nil)); err != nil {
			t.Error(err)
		}
		// What ECS has given up without going back is tried again, also if it is what the service is to run already.
		m.service.deployments[0].state, m.lag = "FAILED", 15*time.Second
		text, err := json.Marshal(spec("taskfleet:1", nil))
		if err != nil {
			t.Fatal(err)
		}
		if text, err = r.Normal(name, text); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Update(t.Context(), name, r.state, text); err != nil || m.service.deployments[0].state != "COMPLETED" {
			t.Errorf("%v, %s", err, m.service.deployments[0].state)
		}
	})
}

// A process that is killed at any of its calls has begun something or not; the next one goes on, and nothing is done twice.
func TestAKilledReleaseIsGoneOnWith(t *testing.T) {
	const migrate = true
	s := spec("taskfleet:1", map[string]string{platformSecret: "v1"})
	s.Migrate = migrate
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			ended := false
			synctest.Test(t, func(t *testing.T) {
				m := newImitation()
				ctx, kill := context.WithCancel(t.Context())
				defer kill()
				killed := newThing(platform.Options{Transport: &dying{m, n, after, kill}}, "Release", name)
				if _, err := killed.up(ctx, s); err == nil {
					ended = true
					return
				}
				if killed.state != nil {
					t.Errorf("killed at call %d: it has a state", n)
				}
				time.Sleep(time.Hour / 60) // until somebody notices
				next := newThing(platform.Options{Transport: m}, "Release", name)
				if _, err := next.up(t.Context(), s); err != nil {
					t.Errorf("killed at call %d: %v", n, err)
				}
				number, _ := m.runs()
				if number != "2" || m.asked["RegisterTaskDefinition"] != 1 || m.asked["UpdateService"] != 1 || m.asked["RunTask"] != 1 {
					t.Errorf("killed at call %d, after it %t: revision %s, calls %v", n, after, number, m.asked)
				}
			})
			if ended {
				if n < 10 {
					t.Errorf("a release has %d calls", n)
				}
				break
			}
		}
	}
}

func TestAWSMayBeSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		m.lag, m.flaps = 15*time.Second, true
		calls := map[string]int{}
		m.meddle = func(operation string) (string, error) {
			calls[operation]++
			switch calls[operation] % 4 {
			case 1:
				return "ThrottlingException", nil
			case 2:
				return "", errors.New("connection reset by peer")
			}
			return "", nil
		}
		r := newThing(platform.Options{Transport: m}, "Release", name)
		s := spec("taskfleet:1", nil)
		s.Migrate = true
		if _, err := r.up(t.Context(), s); err != nil || m.asked["RegisterTaskDefinition"] != 1 || m.asked["UpdateService"] != 1 || m.asked["RunTask"] != 1 {
			t.Errorf("%v, %v", err, m.asked)
		}
	})
}

func TestARefusalAfterRegisteringIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		m.meddle = func(operation string) (string, error) {
			if operation == "UpdateService" {
				return "AccessDeniedException", nil
			}
			return "", nil
		}
		r := newThing(platform.Options{Transport: m}, "Release", name)
		if _, err := r.up(t.Context(), spec("taskfleet:1", nil)); err == nil || !strings.Contains(err.Error(), "have the service "+name+" run prod:2") || !strings.Contains(err.Error(), "AccessDenied") {
			t.Error(err)
		}
		m.meddle = nil
		if _, err := r.up(t.Context(), spec("taskfleet:1", nil)); err != nil || len(m.revisions) != 2 {
			t.Errorf("%v, %d revisions", err, len(m.revisions))
		}
	})
}

func TestTheDatabaseIsMigratedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		m.migrated = 3
		r := newThing(platform.Options{Transport: m}, "Release", name)
		s := spec("taskfleet:1", nil)
		s.Migrate = true
		if _, err := r.up(t.Context(), s); err == nil || !strings.Contains(err.Error(), "nothing was released") || !strings.Contains(err.Error(), "taskfleet has exit code 3") {
			t.Error(err)
		}
		if number, _ := m.runs(); number != "1" || m.asked["UpdateService"] != 0 {
			t.Errorf("revision %s was rolled out", number)
		}
		if got := fmt.Sprint(m.tasks[0].command); got != "[database migrate --config /etc/taskfleet/conf.d]" {
			t.Errorf("the command is %s", got)
		}
		m.migrated = 0
		if _, err := r.up(t.Context(), s); err != nil || len(m.tasks) != 2 {
			t.Errorf("%v, %d tasks", err, len(m.tasks))
		}
		if number, _ := m.runs(); number != "2" {
			t.Errorf("revision %s runs", number)
		}
	})
}

func TestWhatOthersHaveReleasedIsDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		r := newThing(platform.Options{Transport: m}, "Release", name)
		s := spec("taskfleet:1", map[string]string{platformSecret: "v1"})
		if _, err := r.up(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if r.refresh(t) {
			t.Errorf("at once: %s", r.state)
		}
		m.rollOut(m.revisions[0]) // by hand
		time.Sleep(time.Minute)
		if !r.refresh(t) || r.member(t, "image") != "taskfleet:0" || r.member(t, "versions") != "<nil>" {
			t.Errorf("after somebody else: %s", r.state)
		}
		if differs, err := r.up(t.Context(), s); err != nil || !differs {
			t.Errorf("it is not put back: %t, %v", differs, err)
		}
		if number, _ := m.runs(); number != "2" {
			t.Errorf("revision %s runs", number)
		}
		imported := newThing(platform.Options{Transport: m}, "Release", name)
		if !imported.refresh(t) || imported.member(t, "image") != "taskfleet:1" || imported.member(t, "template") != s.Template || imported.member(t, "versions") != "map["+platformSecret+":v1]" {
			t.Errorf("imported: %s", imported.state)
		}
		if differs, err := imported.up(t.Context(), s); err != nil || differs {
			t.Errorf("imported: %t, %v", differs, err)
		}
		gone := newThing(platform.Options{Transport: m}, "Release", region+"/other/other")
		if gone.refresh(t); gone.state != nil {
			t.Errorf("without a service: %s", gone.state)
		}
		if _, err := gone.up(t.Context(), s); err == nil || !strings.Contains(err.Error(), "there is no service "+region+"/other/other: taskfleet infra apply makes it") {
			t.Error(err)
		}
	})
}

// A release that is interrupted by hand says that the rollout goes on.
func TestAnInterruptionSaysWhatGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		r := newThing(platform.Options{Transport: m}, "Release", name)
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		defer stop()
		if _, err := r.up(ctx, spec("taskfleet:1", nil)); err == nil || !strings.Contains(err.Error(), "goes on at AWS; the same again waits for it") {
			t.Error(err)
		}
	})
}

// Who cannot see how a rollout goes does not take it back.
func TestARolloutThatCannotBeSeenGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newImitation()
		m.meddle = func(operation string) (string, error) {
			if operation == "DescribeServices" && m.asked["UpdateService"] > 0 {
				return "ExpiredTokenException", nil
			}
			return "", nil
		}
		r := newThing(platform.Options{Transport: m}, "Release", name)
		if _, err := r.up(t.Context(), spec("taskfleet:1", nil)); err == nil || !strings.Contains(err.Error(), "goes on at AWS") || !strings.Contains(err.Error(), "ExpiredToken") {
			t.Error(err)
		}
		m.meddle = nil
		if number, _ := m.runs(); number != "2" || m.asked["UpdateService"] != 1 {
			t.Errorf("revision %s runs after %d updates", number, m.asked["UpdateService"])
		}
		if _, err := r.up(t.Context(), spec("taskfleet:1", nil)); err != nil || m.asked["UpdateService"] != 1 {
			t.Error(err)
		}
	})
}
