package scene

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Network is a veth pair: one end here, with a name and address of its own, the
// other in a namespace where speakers live. What they multicast stays on it.
type Network struct {
	Link string // our end
	Addr string // our address on it
	Far  string // an address at the other end

	tb  testing.TB
	ns  string
	far string // the other end
}

// NewNetwork makes a network that goes with the test. The error says why there
// can be none here.
func NewNetwork(tb testing.TB) (*Network, error) {
	tb.Helper()
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, errors.New("ip is not installed (Debian package iproute2)")
	}
	tag := fmt.Sprintf("rb%04x", rand.N(1<<16))
	subnet := fmt.Sprintf("10.231.%d.", rand.N(256))
	n := &Network{Link: tag + "a", Addr: subnet + "1", Far: subnet + "2", tb: tb, ns: tag, far: tag + "b"}
	tb.Cleanup(func() { _ = ip("netns", "del", n.ns) }) // takes the pair along
	for _, argv := range [][]string{
		{"netns", "add", n.ns},
		{"link", "add", n.Link, "type", "veth", "peer", "name", n.far, "netns", n.ns},
		{"addr", "add", n.Addr + "/24", "dev", n.Link},
		{"link", "set", n.Link, "up"},
		{"-n", n.ns, "addr", "add", n.Far + "/24", "dev", n.far},
		{"-n", n.ns, "link", "set", n.far, "up"},
		{"-n", n.ns, "link", "set", "lo", "up"},
		{"-n", n.ns, "route", "add", "default", "via", n.Addr},
	} {
		if err := ip(argv...); err != nil {
			return nil, fmt.Errorf("network namespaces do not work here: %w", err)
		}
	}
	return n, nil
}

// Inside is a command that runs argv at the other end.
func (n *Network) Inside(argv ...string) []string {
	return append([]string{"ip", "netns", "exec", n.ns}, argv...)
}

// Plug pulls the plug of the other end, or puts it in again. Nobody is told.
func (n *Network) Plug(in bool) {
	n.tb.Helper()
	n.must("-n", n.ns, "link", "set", n.far, map[bool]string{true: "up", false: "down"}[in])
}

// Readdress gives the other end a new address instead of Far, as DHCP does.
func (n *Network) Readdress() {
	n.tb.Helper()
	subnet := strings.TrimSuffix(n.Addr, "1")
	n.must("-n", n.ns, "addr", "del", n.Far+"/24", "dev", n.far)
	n.Far = subnet + "77"
	n.must("-n", n.ns, "addr", "add", n.Far+"/24", "dev", n.far)
}

func (n *Network) must(argv ...string) {
	n.tb.Helper()
	if err := ip(argv...); err != nil {
		n.tb.Fatal(err)
	}
}

func ip(argv ...string) error {
	out, err := exec.Command("ip", argv...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}
