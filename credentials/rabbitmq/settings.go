package rabbitmq

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Settings are those of a credential of this kind.
type Settings struct {
	// URL is that of the management API, with one who may change users:
	// https://rotator:…@mq.example.com. The password may be in PasswordFile instead, which
	// is read whenever it is needed.
	URL          string `json:"url"`
	PasswordFile string `json:"passwordFile"`

	Address     string `json:"address"`     // amqps://host:port, where consumers find the broker
	VirtualHost string `json:"virtualHost"` // theirs
	CAFile      string `json:"caFile"`      // authorities that are trusted instead of those of the machine

	Prefix  string `json:"prefix"`  // of the names of users
	Present string `json:"present"` // a user that is in use before the first rotation

	Permissions      map[string]Permission `json:"permissions"` // by virtual host
	TopicPermissions []TopicPermission     `json:"topicPermissions"`
	Tags             []string              `json:"tags"`
	Limits           Limits                `json:"limits"`

	management *url.URL // without who asks
	rotator    *url.Userinfo
	broker     *url.URL
	host       string // of the broker
	port       int
}

// A Permission is three regular expressions, of the names of what may be configured,
// written to and read from; what is empty allows nothing.
type Permission struct {
	Configure string `json:"configure"`
	Write     string `json:"write"`
	Read      string `json:"read"`
}

// A TopicPermission is of the routing keys at a topic exchange.
type TopicPermission struct {
	VirtualHost string `json:"virtualHost"`
	Exchange    string `json:"exchange"`
	Write       string `json:"write"`
	Read        string `json:"read"`
}

// Limits are of a user at a time; nil is none.
type Limits struct {
	MaxConnections *int `json:"maxConnections"`
	MaxChannels    *int `json:"maxChannels"`
}

const defaultHost = "/"

var prefixPattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)

func parse(text json.RawMessage) (s Settings, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("the settings of a RabbitMQ credential are url, passwordFile, address, virtualHost, caFile, prefix, present, permissions, topicPermissions, tags and limits: %w", err)
	}
	s.VirtualHost = cmp.Or(s.VirtualHost, defaultHost)
	if err := s.places(); err != nil {
		return s, err
	}
	if !prefixPattern.MatchString(s.Prefix) {
		return s, fmt.Errorf("prefix is %q; it is what names of users begin with, of letters, digits, full stops, underscores and hyphens", s.Prefix)
	}
	if s.Present != "" && s.Present == s.rotator.Username() {
		return s, fmt.Errorf("present: %s is the user of url, who would disable and delete himself", s.Present)
	}
	return s, s.rights()
}

// places reads where things are.
func (s *Settings) places() error {
	u, err := url.Parse(s.URL)
	if err != nil {
		return errors.New("url cannot be read; it is not shown, as it may hold a password. Percent-encode what is special in it")
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User.Username() == "" || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("url must be that of the management API and of one who may change users, such as https://rotator:…@mq.example.com")
	}
	_, given := u.User.Password()
	switch {
	case given && s.PasswordFile != "":
		return errors.New("the password is in url and in passwordFile; give one of them")
	case !given && s.PasswordFile == "":
		return errors.New("url has no password; put it there, or name a file that holds it in passwordFile")
	case s.PasswordFile != "" && !filepath.IsAbs(s.PasswordFile):
		return fmt.Errorf("passwordFile is %q; it must be an absolute path", s.PasswordFile)
	case s.CAFile != "" && !filepath.IsAbs(s.CAFile):
		return fmt.Errorf("caFile is %q; it must be an absolute path", s.CAFile)
	}
	s.rotator = u.User
	u.User = nil
	u.Path, u.RawPath = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/api"), ""
	s.management = u

	b, err := url.Parse(s.Address)
	if err != nil {
		return errors.New("address cannot be read; it is amqps://host:port")
	}
	if b.Scheme != "amqps" && b.Scheme != "amqp" || b.Hostname() == "" || b.User != nil || strings.Trim(b.Path, "/") != "" || b.RawQuery != "" {
		return errors.New("address must be where consumers find the broker, such as amqps://mq.example.com:5671, without a user; the virtual host is in virtualHost")
	}
	s.host, s.port = b.Hostname(), 5671
	if b.Scheme == "amqp" {
		s.port = 5672
	}
	if b.Port() != "" {
		if s.port, err = strconv.Atoi(b.Port()); err != nil || s.port < 1 || s.port > 65535 {
			return fmt.Errorf("address has the port %s, which is none", b.Port())
		}
	}
	s.broker = &url.URL{Scheme: b.Scheme, Host: net.JoinHostPort(s.host, strconv.Itoa(s.port))}
	s.Address = s.broker.String()
	return nil
}

// rights checks what users are to be allowed.
func (s *Settings) rights() error {
	if _, ok := s.Permissions[s.VirtualHost]; !ok {
		return fmt.Errorf("permissions has nothing for the virtual host %q, where consumers connect; write for example {%q: {configure: \"\", write: \"^builds$\", read: \"^builds\"}}", s.VirtualHost, s.VirtualHost)
	}
	exchanges := map[[2]string]bool{}
	for i, t := range s.TopicPermissions {
		at := [2]string{cmp.Or(t.VirtualHost, defaultHost), t.Exchange}
		if _, ok := s.Permissions[at[0]]; !ok {
			return fmt.Errorf("topicPermissions[%d]: there are no permissions for the virtual host %q", i, at[0])
		}
		if t.Exchange == "" || exchanges[at] {
			return fmt.Errorf("topicPermissions[%d]: exchange is %q; name each topic exchange of a virtual host once", i, t.Exchange)
		}
		exchanges[at] = true
	}
	for i, tag := range s.Tags {
		if !goodTag(tag) {
			return fmt.Errorf("tags[%d] is %q; a tag is printable, without spaces and commas", i, tag)
		}
	}
	for name, n := range map[string]*int{"maxConnections": s.Limits.MaxConnections, "maxChannels": s.Limits.MaxChannels} {
		if n != nil && *n < 1 {
			return fmt.Errorf("limits: %s is %d; it must be positive, or left out", name, *n)
		}
	}
	return nil
}
