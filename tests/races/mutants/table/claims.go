package table

// claims are the guards of RC-1 to RC-10. Seven of them are the mutations of
// the first prototype: RC-1/late-up, RC-1/late-dial, RC-10/next,
// RC-10/next-started, RC-10/stopping, RC-10/nudge and RC-10/remove-clears-next.
// The random schedules of supervisor.TestUpDownAlternateGenerations notice all
// of them but the first, as there; a test that forces the schedule is quicker,
// and notices each of them each time.
func claims() []Mutant {
	// Ensure that looks, lets go of the mutex, and then creates. The sleep is
	// virtual: it lets everybody else look first.
	checkThenCreate := at(supervisor+"/map.go",
		"\t\tfirst := ep\n",
		"\t\tm.mu.Unlock()\n\t\ttime.Sleep(1)\n\t\tm.mu.Lock()\n\t\tfirst := ep\n")
	startBesideTheOld := Edit{
		supervisor + "/map.go",
		"\t\tcreated = e.next == nil\n\t\tif created {\n\t\t\te.next = &birth[E, S]{}\n\t\t}\n\t\tlatest := ep\n\t\te.next.ep, e.next.withdrawn = &latest, false\n\t\treturn created, nil\n",
		"\t\tlatest := ep\n\t\tm.startLocked(key, birth[E, S]{ep: &latest}, e.lastDial, e.lastAnnounce)\n\t\treturn true, nil\n",
	}
	deaf := at(session+"/queue.go",
		"\tselect {\n\tcase <-s.done:\n\t\treturn ErrGone\n\tdefault:\n\t}\n",
		"")
	return []Mutant{
		{
			"RC-1/late-up", at(supervisor+"/actor.go",
				"if a.e.stopping && state <= Up {",
				"if a.e.stopping && state < Up {"),
			killedBy(supervisor, "^TestRC1NoUpAfterRemove$"),
		},
		{
			"RC-1/late-dial", at(supervisor+"/actor.go",
				"\t\t\t\t\tr.s.Kill(cause)\n",
				""),
			killedBy(supervisor, "^TestRemoveWhileDialSucceeds$"),
		},
		{
			"RC-1/moved", at(supervisor+"/actor.go",
				"\t\t\tif cause != nil {\n",
				"\t\t\tif cause != nil && !errors.Is(cause, errMoved) {\n"),
			killedBy(supervisor, "^TestMovedAttemptIsThrownAway$"),
		},
		{
			"RC-1/withdrawn", at(server+"/model.go",
				"\t\t\tm.conns.Remove(key)\n",
				""),
			killedBy(server, "^TestRC1RemovedDuringDial$"),
		},
		{
			"RC-1/custody", at(server+"/do.go",
				"\t\tfor _, k := range c.keys {\n\t\t\tm.conns.Remove(k)\n\t\t}\n\tcase !managed(was):",
				"\tcase !managed(was):"),
			killedBy(server, "^TestCustodyChoices$"),
		},
		{
			// During a dial onStatus is a second layer: it ends what comes up.
			"RC-1/custody-in-dial",
			[]Edit{
				{
					server + "/do.go",
					"\t\tfor _, k := range c.keys {\n\t\t\tm.conns.Remove(k)\n\t\t}\n\tcase !managed(was):",
					"\tcase !managed(was):",
				},
				{server + "/hear.go", "if c.player && !managed(m.custody(c)) {", "if false {"},
			},
			killedBy(server, "^TestRC1RemovedDuringDial$"),
		},
		{
			"RC-1/custody-at-first-sight", at(server+"/hear.go",
				"if c.player && !managed(m.custody(c)) {",
				"if false {"),
			killedBy(server, "^TestIgnoredByOverride$"),
		},
		{
			"RC-1/forgotten", at(server+"/do_group.go",
				"\tfor _, k := range c.keys {\n\t\tm.conns.Remove(k)\n\t}\n",
				""),
			killedBy(server, "^TestRC1RemovedDuringDial$"),
		},
		{
			"RC-1/client", at(client+"/client.go",
				"\tif !stop() {\n",
				"\tif !stop() && err != nil {\n"),
			killedBy(client, "^TestRC1ClientCancelledDialHasNoSession$"),
		},

		{
			"RC-2/first-cause", at(session+"/session.go",
				"\ts.once.Do(func() { // RC-2: first cause wins, teardown runs once\n\t\ts.cause = cause\n",
				"\ts.cause = cause\n\ts.once.Do(func() {\n"),
			killedBy(session, "^TestRC2FirstCauseWins$"),
		},
		{
			"RC-2/first-end", at(supervisor+"/serve.go",
				"\tif v.ending != nil {\n\t\treturn\n\t}\n\tv.ending = cause",
				"\tv.ending = cause"),
			killedBy(supervisor, "^TestRC2ActorsFirstCauseWins$"),
		},
		{
			"RC-2/awaited", at(supervisor+"/serve.go",
				"\t\t\tv.late()\n",
				"\t\t\tif v.killed {\n\t\t\t\treturn v.ending\n\t\t\t}\n\t\t\tv.late()\n"),
			killedBy(supervisor, "^TestRC2NextSessionWaitsForTeardown$"),
		},
		{
			"RC-2/up-after-the-end", at(session+"/session.go",
				"\tselect {\n\tcase <-s.done:\n\t\treturn false\n\tdefault:\n\t\treturn true\n\t}\n}\n",
				"\treturn true\n}\n"),
			killedBy(session, "^TestRC2NoUpAfterTheEnd$"),
		},
		{
			"RC-2/client-bound", at(client+"/client.go",
				"t := time.NewTimer(linger)",
				"t := time.NewTimer(time.Hour)"),
			killedBy(client, "^TestRC2ClientCloseIsBounded$"),
		},

		{
			"RC-3/after-up", at(session+"/read.go",
				"\tselect { // ready is closed: up comes next, and before any message\n\tcase <-r.opened:\n\tcase <-r.done:\n\t\treturn ErrGone\n\t}\n",
				""),
			killedBy(session, "^TestRC3HandleAfterUpInOrder$"),
		},
		{
			"RC-3/no-lock",
			[]Edit{
				{
					supervisor + "/actor.go",
					"\tst = a.e.statusLocked()\n\ta.m.mu.Unlock()\n",
					"\tst = a.e.statusLocked()\n\tdefer a.m.mu.Unlock()\n",
				},
			},
			killedBy(supervisor, "^TestReentrantCallsFromEvents$"),
		},
		{
			"RC-3/panic", at(contain+"/contain.go",
				"\treturned := false\n",
				"\treturned := true\n"),
			killedBy(client, "^TestPanicEndsItsSession$"),
		},
		{
			"RC-3/client", at(client+"/client.go",
				"func (s *Session) dispatch(m protocol.ServerMessage, received timesync.Micros) {\n\tselect {\n\tcase <-s.closing:\n\t\treturn\n\tdefault:\n\t}\n",
				"func (s *Session) dispatch(m protocol.ServerMessage, received timesync.Micros) {\n"),
			killedBy(client, "^TestRC3ClientCloseInsideCallback$"),
		},

		{"RC-4/gone", deaf, killedBy(session, "^TestRC4SendAfterEnd$")},
		{"RC-4/one-writer", manyWriters(), killedBy(session, "^TestRC4SendStorm$")},
		{
			"RC-4/client-gone", at(client+"/client.go",
				"\tselect {\n\tcase <-s.closing:\n\t\treturn ErrGone\n\tdefault:\n\t}\n",
				""),
			killedBy(client, "^TestRC4ClientSendAfterEnd$"),
		},
		{
			"RC-4/client-one-writer", at(client+"/client.go",
				"\tselect {\n\tcase s.out <- m:\n\t\treturn nil\n\tdefault:\n\t\ts.end(ErrSlow)\n\t\treturn ErrSlow\n\t}\n",
				"\treturn s.writeMessage(m, writeTimeout)\n"),
			killedBy(client, "^TestRC4ClientSingleWriterUnderStorm$"),
		},

		{"RC-5/stale", deaf, killedBy(session, "^TestRC5StaleSocket$")},
		{
			"RC-5/client-one-writer", at(client+"/client.go",
				"\t\tcase <-ask.C:\n\t\t\terr = s.ask(burst, ask)\n",
				"\t\tcase <-ask.C:\n\t\t\tgo func() { _ = s.ask(burst, ask) }()\n"),
			seenByRace(client, "^TestRC6ClientModelIsNeverTorn$"),
		},

		{
			"RC-6/one-store", at(clock+"/filter.go",
				"\tf.model.Store(f.snapshot())\n",
				"\tif m := f.model.Load(); m != nil {\n\t\t*m = *f.snapshot()\n\t\treturn\n\t}\n\tf.model.Store(f.snapshot())\n"),
			killedBy(clock, "^TestRC6ModelIsOneUpdateOfOneSession$"),
		},
		{
			"RC-6/echo", at(clock+"/burst.go",
				"if !b.inFlight || s.ClientTransmitted != b.sent {",
				"if !b.inFlight {"),
			killedBy(client, "^TestRC6ClientStaleRepliesChangeNothing$"),
		},

		{
			"RC-7/one-entry-per-id", at(supervisor+"/map.go",
				"\te := m.ids[id]\n\tswitch {\n",
				"\tvar e *entry[E, S]\n\tswitch {\n"),
			killedBy(supervisor, "^TestRC7SecondSocketOfOneClient$"),
		},
		{
			"RC-7/late-message", at(server+"/hear.go",
				"if c == nil || c.link != l {",
				"if c == nil || c.link == nil {"),
			killedBy(server, "^TestRC7LateMessage$"),
		},
		{
			"RC-7/skipped-end", at(server+"/hear.go",
				"\t\t\tm.lost(c, st) // the old one, if its end was skipped\n",
				""),
			killedBy(server, "^TestRC7SkippedEnd$"),
		},
		{
			"RC-7/membership", at(server+"/hear.go",
				"\tc.member = m.after(m.opts.MembershipGrace, func() { m.memberGraceOver(c) })\n\tm.touchGroup(c.group)\n}",
				"\tm.expire(c)\n\tm.touchGroup(c.group)\n}"),
			killedBy(server, "^TestRC7HalfOpenAndBack$"),
		},

		{
			"RC-8/writer-frees-reader", at(session+"/session.go",
				"\t\t_ = s.ws.Close() // frees the reader, whose error is then not the first\n",
				""),
			killedBy(session, "^TestRC8ReaderAndWriterEndTogether$"),
		},
		{
			"RC-8/reader-frees-writer", at(session+"/write.go",
				"\t\tcase <-s.done:\n\t\t\ts.farewell()\n\t\t\treturn ErrGone\n",
				""),
			killedBy(session, "^TestRC8ReaderAndWriterEndTogether$"),
		},
		{
			"RC-8/whole-status", at(supervisor+"/actor.go",
				"\ta.e.status = st\n\tst = a.e.statusLocked()\n\ta.m.mu.Unlock()\n",
				"\ta.m.mu.Unlock()\n\ta.e.status = st\n\tst = a.e.statusLocked()\n"),
			seenByRace(supervisor, "^TestRC8SessionIsThereWhenUp$"),
		},

		{"RC-9/one-section", checkThenCreate, killedBy(supervisor, "^TestEnsureThousandOneDial$")},

		{"RC-10/next", []Edit{startBesideTheOld}, killedBy(supervisor, "^TestRemoveEnsureFlapPeakOne$")},
		{
			"RC-10/next-started", at(supervisor+"/map.go",
				"\t\t\tm.startLocked(key, *e.next, e.lastDial, e.lastAnnounce)\n",
				"\t\t\t_ = key\n"),
			killedBy(supervisor, "^TestRC10SuccessorSurvivesPredecessor$"),
		},
		{
			"RC-10/stopping", at(supervisor+"/map.go",
				"\tcase e.stopping: // RC-10: never beside the old one\n",
				"\tcase false:\n"),
			killedBy(supervisor, "^TestRC10SuccessorSurvivesPredecessor$"),
		},
		{
			// The comparison is a second layer: as long as no successor starts
			// beside the old entry, nothing can stand in its place.
			"RC-10/identity",
			[]Edit{
				startBesideTheOld,
				{supervisor + "/map.go", "\tif m.entries[e.key] == e { // RC-10: by identity, not by key\n", "\tif m.entries[e.key] != nil {\n"},
			},
			killedBy(supervisor, "^TestRC10SuccessorSurvivesPredecessor$"),
		},
		{
			"RC-10/remove-clears-next", at(supervisor+"/map.go",
				"\tif e.next != nil { // else Remove, Ensure, Remove would leave a device alive\n\t\tloser, e.next = e.next.in, nil\n\t}\n",
				""),
			killedBy(supervisor, "^TestRemovedStaysRemoved$"),
		},
		{
			"RC-10/nudge", at(supervisor+"/actor.go",
				"\ta.pending |= bits & whyPublic\n",
				""),
			killedBy(supervisor, "^TestNudgeNeverLost$"),
		},
		{
			"RC-10/token", at(supervisor+"/map.go",
				"\tselect {\n\tcase e.wake <- struct{}{}:\n\tdefault: // a token is there already; its reader will see the bits\n\t}\n",
				""),
			killedBy(supervisor, "^TestVerdicts$"),
		},
	}
}

// manyWriters lets each sender write to the socket itself.
func manyWriters() []Edit {
	return at(session+"/queue.go",
		"\tif !full && (len(x.frames) > 0 || x.isStep()) {\n\t\tq.messages = append(q.messages, x)\n\t\tq.bytes += size\n",
		"\tif len(x.frames) > 0 {\n\t\tq.mu.Unlock()\n\t\treturn s.frames(x.frames)\n\t}\n\tif !full && x.isStep() {\n\t\tq.messages = append(q.messages, x)\n\t\tq.bytes += size\n")
}
