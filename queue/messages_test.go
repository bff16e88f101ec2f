package queue

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/event"
)

// messageSchemas are those of the exchanges, by topic.
var messageSchemas = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2019)
	c.AssertFormat()
	const base = "http://tasks.test/schemas/queue/"
	files, err := fs.Glob(API.Schemas, "*.yml")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		text, err := fs.ReadFile(API.Schemas, f)
		if err != nil {
			return nil, err
		}
		b, err := yaml.YAMLToJSON(text)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		if err := c.AddResource(base+"v1/"+strings.TrimSuffix(path.Base(f), ".yml")+".json", doc); err != nil {
			return nil, err
		}
	}
	all := map[string]*jsonschema.Schema{}
	for _, x := range API.Exchanges {
		if all[event.Topic("queue", "v1", x)], err = c.Compile(base + strings.TrimSuffix(x.Schema, "#")); err != nil {
			return nil, err
		}
	}
	return all, nil
})

// messages compares what was published with what the reference says, as
// CheckOutput does for replies: the first thousands, which it counts by topic.
// Every stage ends with it.
func (s *stage) messages() map[string]int {
	schemas, err := messageSchemas()
	if err != nil {
		s.t.Fatal(err)
	}
	exchanges := map[string]api.Exchange{}
	for _, x := range API.Exchanges {
		exchanges[event.Topic("queue", "v1", x)] = x
	}
	count := map[string]int{}
	var position int64
	for range 5 {
		list, err := s.bus.Read(context.Background(), position, 1000)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, m := range list {
			position = m.Position
			schema := schemas[m.Exchange]
			if schema == nil {
				s.t.Errorf("%s is declared nowhere", m.Exchange)
				continue
			}
			count[m.Exchange]++
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(m.Payload))
			if err != nil {
				s.t.Fatal(err)
			}
			if err := schema.Validate(doc); err != nil {
				s.t.Errorf("%s: %v\n%s", m.Exchange, err, m.Payload)
			}
			if err := checkKey(exchanges[m.Exchange], m.RoutingKey); err != nil {
				s.t.Errorf("%s: %v", m.Exchange, err)
			}
		}
	}
	return count
}

func checkKey(x api.Exchange, key string) error {
	words := strings.Split(key, ".")
	if len(words) != len(x.RoutingKey) {
		return fmt.Errorf("the routing key %s has %d words, not %d", key, len(words), len(x.RoutingKey))
	}
	for i, k := range x.RoutingKey {
		switch {
		case words[i] == "":
			return fmt.Errorf("the routing key %s lacks %s", key, k.Name)
		case k.Constant != "" && words[i] != k.Constant, k.Required && words[i] == "_":
			return fmt.Errorf("the routing key %s has %q for %s", key, words[i], k.Name)
		}
	}
	return nil
}

// There is a message on every exchange, and each is what the reference says.
func TestEveryExchange(t *testing.T) {
	withArtifacts(t, func(t *testing.T, s *stage, _ *blob.Bucket) {
		for _, line := range []string{
			"create A", "create B routes=a.b,c", "create C", "priority C high", "claim w 3", "completed A/0", "failed B/0", "cancel C",
			"rerun A", "group-priority A low", "seal A", "claim w",
		} {
			s.do(strings.Fields(line))
		}
		s.createArtifact("A/1", "public/x", map[string]any{"storageType": "reference", "contentType": "text/plain", "url": "http://localhost/"})
		s.createArtifact("A/1", "public/y", map[string]any{"storageType": "error", "reason": "file-missing-on-worker", "message": "gone"})
		s.do(strings.Fields("completed A/1"))
		if len(API.Exchanges) != 11 {
			t.Errorf("there are %d exchanges", len(API.Exchanges))
		}
		eventually(t, "a message on every exchange", func() bool { return len(s.messages()) == len(API.Exchanges) })
	})
}

// eventually waits for what loops do, in real time.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("there is never %s", what)
		}
	}
}
