package timestamp

import "testing"

func TestWhatIsReadCanBeWritten(t *testing.T) {
	for text, want := range map[string]string{
		"2016-05-11T09:30:00.1239+01:00": "2016-05-11T08:30:00.123Z",
		"0000-01-01T00:00:00Z":           "0000-01-01T00:00:00.000Z",
		"9999-12-31T23:59:59.999Z":       Max.String(),
		"9999-12-31T23:59:59-00:01":      "",
		"0000-01-01T00:00:00+00:01":      "",
		"yesterday":                      "",
	} {
		var a, b Time
		err := a.UnmarshalText([]byte(text))
		if want == "" {
			if err == nil {
				t.Errorf("%s is accepted, as %s", text, a)
			}
			continue
		}
		if err != nil || a.String() != want || b.UnmarshalText([]byte(want)) != nil || a != b {
			t.Errorf("%s: %s, then %s; %v", text, a, b, err)
		}
	}
}
