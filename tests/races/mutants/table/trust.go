package table

// trust are the guards of who is trusted, and of the order of keys.
func trust() []Mutant {
	return []Mutant{
		{
			"T1/downgrade", at(server+"/server.go",
				"_, paired := s.keys.get(h.ClientID); paired {",
				"_, paired := s.keys.get(h.ClientID); paired && false {"),
			killedBy(server, "^TestDowngradeIsRefused$"),
		},
		{
			"T2/approved", at(server+"/trust.go",
				"return !record && c.rec.Approved && c.link.Hello().Trust.Unpaired",
				"return !record && c.link.Hello().Trust.Unpaired"),
			killedBy(server, "^TestSealedPlaysOnceApproved$"),
		},
		{
			"T2/ends-with-pairing", at(server+"/pair.go",
				"\tc.rec.Approved = false // (spec: operator approval)\n",
				""),
			killedBy(server, "^TestSpeakerUnpairs$"),
		},
		{
			"T2/stream-first", at(session+"/sealed.go",
				"\tif err := s.endRemoved(a); err != nil {\n",
				"\tif err := error(nil); err != nil {\n"),
			killedBy(server, "^TestApprovalIsWithdrawn$"),
		},
		{
			"T2/no-say", at(server+"/hear.go",
				"\tif !m.granted(c) {\n\t\treturn // a stranger",
				"\tif false {\n\t\treturn // a stranger"),
			killedBy(server, "^TestStrangerHasNoSay$"),
		},
		{
			"T3/stored-first", at(server+"/pair.go",
				"\tm.disk(func() error { return m.keys.put(r) }",
				"\tm.sendPairing(c, l.pair.Stored())\n\tm.disk(func() error { return m.keys.put(r) }"),
			killedBy(server, "^TestPairingIsStoredFirst$"),
		},
		{
			"T3/forgotten", at(server+"/pair.go",
				"told := m.byID[c.rec.ClientID] == c && c.link == l && c.attempt == a",
				"told := true"),
			killedBy(server, "^TestForgottenWhilePairing$"),
		},
		{
			"T3/cut-off", at(server+"/pair.go",
				"told := m.byID[c.rec.ClientID] == c && c.link == l && c.attempt == a",
				"told := m.byID[c.rec.ClientID] == c"),
			killedBy(server, "^TestPairingIsCutOffWhileItIsStored$"),
		},
		{
			"T3/shut-down", at(server+"/server.go",
				"\t\tif err := s.keys.close(); err != nil {",
				"\t\tif err := error(nil); err != nil {"),
			killedBy(server, "^TestPairingIsCutOffWhileItIsStored$"),
		},
		{
			"T3/void-key", at(server+"/trust.go",
				"\tif !record && l.Category().Paired() {",
				"\tif false {"),
			killedBy(server, "^TestForgottenWhileItConnects$"),
		},
		{
			"T4/told-apart", at(server+"/trust.go",
				"\tcase record && c.mismatch:\n",
				"\tcase false:\n"),
			killedBy(server, "^TestMismatch$"),
		},
		{
			"T4/back-to-its-key", at(server+"/trust.go",
				"paired && !l.Category().Paired() && !c.mismatch {",
				"paired && false {\n\t\t_ = r"),
			killedBy(server, "^TestPairAgain$"),
		},
		{
			"T5/proven", at(supervisor+"/serve.go",
				"\treturn ok && p.Proven()\n",
				"\treturn ok && p.Proven() && false\n"),
			killedBy(server, "^TestProvenIdentityReplaces$"),
		},
		{
			"T5/claimed", at(supervisor+"/serve.go",
				"\treturn ok && p.Proven()\n",
				"\treturn ok || p.Proven()\n"),
			killedBy(server, "^TestRC7ImpostorIsSentAway$"),
		},
		{
			"T6/steps-first", at(session+"/queue.go",
				"if q.steps == 0 && q.level",
				"if q.level"),
			killedBy(session, "^TestRekeyOrder$"),
		},
		{
			"T6/stream-first", at(session+"/sealed.go",
				"\tif err := s.endRemoved(r.activation); err != nil {\n",
				"\tif err := error(nil); err != nil {\n"),
			killedBy(session, "^TestRekeyOrder$"),
		},
		{
			"T6/worn-out", at(session+"/sealed.go",
				"\treturn x != nil && (",
				"\treturn x != nil && false && ("),
			killedBy(session, "^TestRekeyUnderTraffic$"),
		},
		{
			"T6/unanswered", at(session+"/sealed.go",
				"\tlate := time.NewTimer(s.opts.HelloTimeout)\n\tdefer late.Stop()\n\tselect {\n\tcase x.out",
				"\tlate := time.NewTimer(time.Hour)\n\tdefer late.Stop()\n\tselect {\n\tcase x.out"),
			killedBy(session, "^TestRekeyUnanswered$"),
		},
		{
			"T6/queued", at(server+"/trust.go",
				"\tif queued {",
				"\tif queued && false {"),
			killedBy(server, "^TestKeysWearOutInFrontOfPairing$"),
		},
		{
			"T7/one-attempt", at(server+"/trust.go",
				"|| l.rekey != nil || c.attempt != nil {",
				"|| l.rekey != nil {"),
			killedBy(server, "^TestPairByDynamicCode$"),
		},
		{
			"T7/withdrawn", at(server+"/trust.go",
				"\tif c.attempt != nil && c.link != nil && len(",
				"\tif false && len("),
			killedBy(server, "^TestApprovalIsWithdrawnWhilePairing$"),
		},
		{
			"T7/no-second-try", at(session+"/read.go",
				`(strings.HasPrefix(bad.Msg, "client/pair-") ||`,
				`(strings.HasPrefix(bad.Msg, "none") ||`),
			killedBy(session, "^TestMalformedPairingEndsIt$"),
		},
		{
			"T8/flood", at(server+"/keys.go",
				"case from != nil && !s.strangers.allow(from):",
				"case from != nil && !s.strangers.allow(from) && false:"),
			killedBy(server, "^TestHandshakeFlood$"),
		},
		{
			"T8/neighbour", at(server+"/keys.go",
				"netip.PrefixFrom(ip, ip.BitLen())",
				"netip.PrefixFrom(ip, min(64, ip.BitLen())).Masked()"),
			killedBy(server, "^TestHandshakeFloodIPv6$"),
		},
		{
			"T8/one-deadline", at(session+"/sealed.go",
				"\tfor {\n\t\tkind, frame, err := ws.ReadMessage()\n",
				"\tfor {\n\t\t_ = ws.SetReadDeadline(time.Now().Add(o.HelloTimeout))\n\t\tkind, frame, err := ws.ReadMessage()\n"),
			killedBy(session, "^TestHandshakeFailuresAreSilent$"),
		},
		{
			"T9/stated", at(server+"/stage.go",
				"|| c.link.Encrypted() && !c.link.stated {",
				"{"),
			killedBy(server, "^TestNothingBeforeItsState$"),
		},
		{
			"T9/no-more-than-true", at(server+"/trust.go",
				"&& (c.group.playback == Playing || m.announcing(c)) {",
				"{"),
			killedBy(server, "^TestSealedPlaysOnceApproved$"),
		},
		{
			"T10/tried-again", at(server+"/trust.go",
				"m.resave = m.after(saveAgain, m.saveKeys)",
				"m.resave = stoppedTimer()"),
			killedBy(server, "^TestForgottenForGood$"),
		},
		{
			"T10/at-the-end", at(server+"/keys.go",
				"stale := k.stale || len(k.coming) > 0",
				"stale := len(k.coming) > 0"),
			killedBy(server, "^TestForgottenForGood$"),
		},
		{
			"T11/own-end", at(server+"/hear.go",
				"\t\tst.Verdict = judge(st.Cause)\n",
				""),
			killedBy(server, "^TestUnpairedAndBackAtOnce$"),
		},
	}
}
