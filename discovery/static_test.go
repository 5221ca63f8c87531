package discovery

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
)

func TestStatic(t *testing.T) {
	addr := func(s string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(s)} }
	for _, tc := range []struct {
		name, url string
		want      Endpoint
		dial      string
	}{
		{"all given", "ws://192.168.1.5:9000/x", Endpoint{
			Key: "ws://192.168.1.5:9000/x", Name: "192.168.1.5", Addrs: addr("192.168.1.5:9000"), Path: "/x",
		}, "ws://192.168.1.5:9000/x"},
		{"defaults", "ws://192.168.1.5", Endpoint{
			Key: "ws://192.168.1.5:8928/sendspin", Name: "192.168.1.5", Addrs: addr("192.168.1.5:8928"), Path: "/sendspin",
		}, "ws://192.168.1.5:8928/sendspin"},
		{"host name", " WS://Kitchen.local:8928/ ", Endpoint{
			Key: "ws://kitchen.local:8928/sendspin", Name: "kitchen.local", Host: "kitchen.local", Port: 8928, Path: "/sendspin",
		}, "ws://kitchen.local:8928/sendspin"},
		{"query and escapes", "ws://h/a%20b?c=d", Endpoint{
			Key: "ws://h:8928/a%20b?c=d", Name: "h", Host: "h", Port: 8928, Path: "/a%20b?c=d",
		}, "ws://h:8928/a%20b?c=d"},
		{"IPv6", "ws://[FD00::5]:9000", Endpoint{
			Key: "ws://[fd00::5]:9000/sendspin", Name: "fd00::5", Addrs: addr("[fd00::5]:9000"), Path: "/sendspin",
		}, "ws://[fd00::5]:9000/sendspin"},
		{"IPv6 with a zone", "ws://[fe80::5%25enP3]", Endpoint{
			Key: "ws://[fe80::5%25enP3]:8928/sendspin", Name: "fe80::5%enP3", Addrs: addr("[fe80::5%enP3]:8928"), Path: "/sendspin",
		}, "ws://[fe80::5%25enP3]:8928/sendspin"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, err := NewStatic([]string{tc.url, tc.url})
				if err != nil {
					t.Fatal(err)
				}
				tc.want.Service = ServiceStatic
				events := listenTo(t, src)
				synctest.Wait()
				if len(events) != 1 {
					t.Fatalf("%d events, want 1", len(events))
				}
				ev := <-events
				if ev.Kind != Announced || !same(ev.Endpoint, tc.want) || ev.Endpoint.Port != tc.want.Port {
					t.Errorf("got %+v, want %+v", ev, tc.want)
				}
				if got := ev.Endpoint.URLs(); len(got) != 1 || got[0] != tc.dial {
					t.Errorf("URLs: got %q, want %q", got, tc.dial)
				}
			})
		})
	}
}

func TestStaticRefuses(t *testing.T) {
	for _, tc := range []struct{ url, want string }{
		{"http://h", `scheme "http": want ws`},
		{"h:8928", `scheme "h"`},
		{"192.168.1.5", `scheme "": want ws`},
		{"ws://", "host is missing"},
		{"ws://:8928/x", "host is missing"},
		{"ws://::1", "IPv6 in brackets"},
		{"ws://a b", "host"},
		{"ws://h:0", `port "0"`},
		{"ws://h:70000", `port "70000"`},
		{"ws://h:x", "port"},
		{"ws://u:p@h", "leave them out"},
		{"ws://h/#a", "fragment"},
		{"ws://h/" + strings.Repeat("x", 600), "path"},
		{"ws://h/%zz", "escape"},
	} {
		_, err := NewStatic([]string{"ws://good", tc.url})
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "static player") {
			t.Errorf("%q: got %v, want an error with %q", tc.url, err, tc.want)
		}
	}
	if _, err := NewStatic([]string{"a://b", "c://d"}); err == nil || !strings.Contains(err.Error(), "c://d") {
		t.Errorf("got %v, want all that is wrong", err)
	}
	if _, err := NewStatic(nil); err != nil {
		t.Errorf("none: got %v, want nil", err)
	}
}

func FuzzStatic(f *testing.F) {
	f.Add("ws://192.168.1.5:8928/sendspin")
	f.Add("ws://[fe80::1%25eth0]:1/a?b")
	f.Add("ws://::1")
	f.Fuzz(func(t *testing.T, s string) {
		ep, err := ParseStatic(s)
		if err != nil {
			return
		}
		if ep.Path[0] != '/' || (ep.Host == "") == (len(ep.Addrs) == 0) {
			t.Errorf("%q: got %+v", s, ep)
		}
		again, err := ParseStatic(ep.Key)
		if err != nil || again.Key != ep.Key {
			t.Errorf("%q: key %q reads as %q, %v", s, ep.Key, again.Key, err)
		}
	})
}
