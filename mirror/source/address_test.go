package source

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestAddresses(t *testing.T) {
	permitted, err := parseAddresses([]string{"10.20.0.0/16", "fd12::/16", "169.254.0.0/16", "0.0.0.0/1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addresses         string
		public, permitted bool
	}{
		{"93.184.215.14 2606:2800:21f:cb07:6820:80da:af6b:8b2c 64:ff9b::5db8:d70e", true, true},
		{"10.20.3.4 ::ffff:10.20.3.4 fd12:3456::1 127.0.0.1 10.21.0.1 0.0.0.0 100.64.0.1", false, true},
		{"172.16.0.1 172.31.255.255 192.168.1.1 ::1 :: fe80::1 fe80::1%eth0 fec0::1 fd13::1 ::c0a8:101 224.0.0.1 255.255.255.255 ff02::1", false, false},
		{"192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 240.0.0.1 2001:db8::1 3fff::1 100::1", false, false},
		{"169.254.169.254 ::ffff:169.254.169.254 fd00:ec2::254 100.100.100.200 169.254.170.2 168.63.129.16 64:ff9b::a9fe:a9fe 64:ff9b::a83f:8110", false, false},
		{"64:ff9b::c0a8:101 64:ff9b::7f00:1 64:ff9b:1::1 2002:c0a8:101::1 2002:5db8:d70e::1 2001:0:4136:e378::1 ::ffff:0:c0a8:101", false, false},
	} {
		for text := range strings.FieldsSeq(c.addresses) {
			a := netip.MustParseAddr(text)
			if err := judge(a, nil); (err == nil) != c.public {
				t.Errorf("%s: %v", text, err)
			} else if err != nil && (!errors.Is(err, ErrForbiddenAddress) || !strings.Contains(err.Error(), text)) {
				t.Errorf("%s: the error is %v", text, err)
			}
			if err := judge(a, permitted); (err == nil) != c.permitted {
				t.Errorf("%s, where some are permitted: %v", text, err)
			}
		}
	}
	for _, wrong := range []string{"10.0.0.1", "10.0.0.0/33", "localhost", "::ffff:10.0.0.0/104"} {
		if _, err := New(Config{Addresses: []string{"10.0.0.0/8", wrong}}); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// names is a DNS server whose answers change from question to question.
func names(t *testing.T, answers func(name string, n int) netip.Addr) *net.Resolver {
	var n atomic.Int64
	serve := func(c net.Conn) {
		defer c.Close()
		for {
			var size uint16
			if binary.Read(c, binary.BigEndian, &size) != nil {
				return
			}
			question := make([]byte, size)
			if _, err := io.ReadFull(c, question); err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(question); err != nil {
				t.Error(err)
				return
			}
			m.Response, m.Additionals = true, nil
			q := m.Questions[0]
			if q.Type == dnsmessage.TypeA {
				a := answers(q.Name.String(), int(n.Add(1)))
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type},
					Body:   &dnsmessage.AResource{A: a.As4()},
				}}
			}
			answer, err := m.Pack()
			if err != nil {
				t.Error(err)
				return
			}
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		}
	}
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go serve(there)
		return here, nil
	}}
}

// A name that was harmless when somebody looked it up leads into the private
// network when it is connected to.
func TestRebinding(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connected := make(chan struct{}, 9)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
			connected <- struct{}{}
		}
	}()
	resolver := names(t, func(_ string, n int) netip.Addr {
		if n == 1 {
			return netip.MustParseAddr("93.184.215.14")
		}
		return netip.MustParseAddr("127.0.0.1")
	})
	looked, err := resolver.LookupNetIP(t.Context(), "ip4", "rebind.example")
	if err != nil || judge(looked[0].Unmap(), nil) != nil {
		t.Fatalf("%v, %v", looked, err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	address := net.JoinHostPort("rebind.example", port)

	c, err := New(Config{Allow: []string{"http://" + address + "/"}, Dial: dialer(nil, resolver).DialContext})
	if err != nil {
		t.Fatal(err)
	}
	u, err := Canonical("http://" + address + "/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stat(t.Context(), u); !errors.Is(err, ErrForbiddenAddress) || errors.Is(err, ErrTemporary) {
		t.Errorf("the error is %v", err)
	}
	if len(connected) > 0 {
		t.Error("it was connected to")
	}

	// The same where the operator says that this is an origin.
	permitted := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	conn, err := dialer(permitted, resolver).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	<-connected
}

// No proxy of the environment is asked, whose connections nobody judges.
func TestNoProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	if newTransport(Config{}, nil).Proxy != nil {
		t.Error("there is a proxy")
	}
}
