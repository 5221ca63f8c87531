package main

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
)

// announce sends unsolicited mDNS announcements of a player on 127.0.0.1. It
// refuses to where anyone else could hear them: it is for a network namespace
// with nothing but a loopback interface.
func announce(a struct {
	Port  int `json:"port"`
	Times int `json:"times"`
	GapMs int `json:"gap_ms"`
},
) (any, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0 {
			return nil, fmt.Errorf("interface %s is up: announcements are for a network namespace of their own", i.Name)
		}
	}
	const service, instance, host = "_sendspin._tcp.local.", "peer._sendspin._tcp.local.", "peer.local."
	head := func(name string, kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 120}
	}
	m := dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}}
	m.Answer = []dns.RR{
		&dns.PTR{Hdr: head(service, dns.TypePTR), Ptr: instance},
		&dns.SRV{Hdr: head(instance, dns.TypeSRV), Port: uint16(a.Port), Target: host},
		&dns.TXT{Hdr: head(instance, dns.TypeTXT), Txt: []string{"path=/sendspin"}},
		&dns.A{Hdr: head(host, dns.TypeA), A: net.IPv4(127, 0, 0, 1)},
	}
	packet, err := m.Pack()
	if err != nil {
		return nil, err
	}
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if a.Times > 1000 {
		return nil, errors.New("times: at most 1000")
	}
	for range a.Times {
		if _, err := c.Write(packet); err != nil {
			return nil, err
		}
		time.Sleep(time.Duration(a.GapMs) * time.Millisecond)
	}
	return now(), nil
}
