package table

// attacks are the guards of encrypted connections and of pairing.
func attacks() []Mutant {
	return []Mutant{
		{
			"S1/over", at(sealing+"/transport.go",
				"\t\to.err = ErrAuthentication\n\t\treturn dst, o.err\n",
				"\t\treturn dst, ErrAuthentication\n"),
			killedBy(sealing, "^TestAttacks$"),
		},
		{
			"S1/session", at(session+"/sealed.go",
				"\tmessage, err := s.in.Open(frame[:0], frame)\n\tif err != nil {\n\t\treturn nil, err\n",
				"\tmessage, err := s.in.Open(frame[:0], frame)\n\tif err != nil {\n\t\treturn nil, nil\n"),
			killedBy(session, "^TestTamperedFramesEndItSilently$"),
		},
		{
			"S2/clear", at(session+"/sealed.go",
				"\tif !binary {\n\t\treturn nil, ErrText\n",
				"\tif !binary {\n\t\treturn nil, nil\n"),
			killedBy(session, "^TestTamperedFramesEndItSilently$"),
		},
		{
			"S3/suite", at(sealing+"/wire.go",
				"\tsuite, ok := ParseSuite(id)\n\tif !ok {\n",
				"\tsuite, ok := ParseSuite(id)\n\tif !ok && id == \"\" {\n"),
			killedBy(sealing, "^TestClientInitRefused$"),
		},
		{
			"S4/prologue", at(sealing+"/handshake.go",
				"\t\tPrologue:              prologue,\n",
				""),
			killedBy(sealing, "^TestHandshakeBindsEveryByte$"),
		},
		{
			"S5/binding", at(sealing+"/handshake.go",
				"\t\tif category == pairing.LongTerm && m.Server != base.Peer {\n",
				"\t\tif false {\n"),
			killedBy(sealing, "^TestMisbinding$"),
		},
		{
			"S6/turn", at(session+"/sealed.go",
				"\t\treturn noise.ErrTurn\n",
				"\t\treturn nil\n"),
			killedBy(session, "^TestTamperedFramesEndItSilently$"),
		},
		{
			"S7/bytes", at(sealing+"/fragment.go",
				"\tcase a.keep && len(a.buf)+len(data) > limit:\n",
				"\tcase false:\n"),
			killedBy(sealing, "^TestNeverEndingFragments$"),
		},
		{
			"S7/parts", at(sealing+"/fragment.go",
				"\tcase a.count > fragmentsMax:\n",
				"\tcase false:\n"),
			killedBy(sealing, "^TestNeverEndingFragments$"),
		},
		{
			"S9/session-id", at(pairs+"/cpace.go",
				"append([]byte(\"sendspin-pair-pake-v1\"), h[:]...)",
				"append([]byte(\"sendspin-pair-pake-v1\"), make([]byte, len(h))...)"),
			killedBy(pairs, "^TestRelayFailsAtTheCode$"),
		},
		{
			"S9/relayed", at(pairs+"/server.go",
				"\tif !derived.equal(x.code) {\n",
				"\tif false {\n"),
			killedBy(pairs, "^TestRelayWithTheCode$"),
		},
		{
			"S10/rounds", at(pairs+"/client.go",
				"\tcase c.device.Rounds < RoundLimit:\n",
				"\tcase true:\n"),
			killedBy(pairs, "^TestRoundLimit$"),
		},
		{
			"S13/unpaired", at(pairs+"/admit.go",
				"\t\t\tif !c.Paired() && !unpaired {\n",
				"\t\t\tif false {\n"),
			killedBy(client, "^FuzzSealedPlayer$"),
		},
		{
			"S14/known", at(pairs+"/channel.go",
				"\t\tif psk.Equal(k) {\n",
				"\t\tif false && psk.Equal(k) {\n"),
			killedBy(pairs, "^TestKeyThatOthersKnow$"),
		},
		{
			"S16/format", at(model+"/secret.go",
				"func (PSK) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, masked) }",
				"func (p PSK) Format(f fmt.State, _ rune) { fmt.Fprintf(f, \"%x\", p.Bytes()) }"),
			killedBy(pairs, "^TestSecretsDoNotShow$"),
		},
		{
			"S17/wiped", at(pairs+"/server.go",
				"\tx.wipe()\n\ts.result = psk\n",
				"\ts.result = psk\n"),
			killedBy(pairs, "^TestWiped$"),
		},
	}
}
