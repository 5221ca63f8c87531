package table

// defects are the guards of X1 to X6 and G1 to G9.
func defects() []Mutant {
	standing := at(session+"/session.go",
		"late := time.AfterFunc(closeDeadline,",
		"late := time.AfterFunc(time.Hour,")
	return []Mutant{
		{
			"X1/never-gives-up", at(supervisor+"/actor.go",
				"\ta.failures++\n\treturn now.Add(d)\n",
				"\tif a.failures++; a.failures > 10 {\n\t\treturn now.Add(1 << 62)\n\t}\n\treturn now.Add(d)\n"),
			killedBy(supervisor, "^TestNeverGivesUp$"),
		},
		{
			"X1/ceiling", at(supervisor+"/backoff.go",
				"\t\tif d >= limit {\n\t\t\tbreak\n\t\t}\n",
				""),
			killedBy(supervisor, "^TestNeverGivesUp$|^TestBackoffCeiling$"),
		},
		{
			"X2/stable", at(supervisor+"/serve.go",
				"if !v.upAt.IsZero() && time.Since(v.upAt) >= v.m.o.StableAfter {",
				"if !v.upAt.IsZero() {"),
			killedBy(supervisor, "^TestBackoffResetRule$"),
		},
		{
			"X2/delivered", at(supervisor+"/serve.go",
				"if !ok || d.Delivered() {",
				"if true || !ok || d.Delivered() {"),
			killedBy(supervisor, "^TestBackoffResetRule$"),
		},
		{
			"X3/bytes", at(session+"/queue.go",
				"full := q.bytes > 0 && q.bytes+size > s.opts.Queue",
				"full := len(q.messages) >= 4096"),
			killedBy(session, "^TestSlowConsumer$"),
		},
		{
			"X3/audio", at(session+"/stream.go",
				"if len(s.streams.queue) >= streamQueue-streamSpare {",
				"if false {"),
			killedBy(session, "^TestAudioIsBounded$"),
		},
		{
			"X3/early", at(session+"/read.go",
				"\t\t\tif len(r.early) == earlyMax {\n",
				"\t\t\tif false {\n"),
			killedBy(session, "^TestEarlyMessagesAreBounded$"),
		},
		{
			"X3/times", at(session+"/read.go",
				"\tcase r.times <- t:\n\tdefault:\n",
				"\tcase r.times <- t:\n\tcase <-r.done:\n"),
			killedBy(session, "^TestTimeFloodIsBounded$"),
		},
		{
			"X4/ends-all", at(supervisor+"/map.go",
				"\t\t\te.stopping = true\n\t\t\te.cancel(ErrClosed)\n",
				"\t\t\te.stopping = true\n"),
			killedBy(supervisor, "^TestCloseBoundedInEveryState$"),
		},
		{
			"X4/hard-end", at(supervisor+"/serve.go",
				"\t\tv.kill()\n\t}\n\tv.drain.Reset(max(v.m.o.DrainTimeout, 0))\n",
				"\t\tv.kill()\n\t}\n"),
			killedBy(supervisor, "^TestCloseBoundedInEveryState$"),
		},
		{
			"X4/order", at(process+"/parts.go",
				"for i := len(p.running) - 1; i >= 0; i-- {",
				"for i := range p.running {"),
			killedBy(process, "^TestPartsStopInReverse$"),
		},
		{
			"X4/awaited", at(process+"/parts.go",
				"\t\t<-x.done\n",
				""),
			killedBy(process, "^TestPartsStopInReverse$"),
		},
		{
			"X5/address", at(supervisor+"/map.go",
				"\t\t\tc.ep, c.withdrawn = ep, false\n\t\t\te.poke(WhyEndpoint)\n",
				""),
			killedBy(server, "^TestNewAddressSamePlayer$"),
		},
		{
			"X6/goodbye", at(session+"/read.go",
				"\t\treturn &GoodbyeError{Reason: m.Reason}\n",
				"\t\treturn r.deliver(m)\n"),
			killedBy(server, "^TestGoodbyeTable$"),
		},
		{"X6/standing-writer", standing, killedBy(session, "^TestRC8ReaderAndWriterEndTogether$")},

		{"G1/one-writer", manyWriters(), seenByRace(session, "^TestRC4SendStorm$")},
		{
			"G2/silence", at(session+"/read.go",
				"s.ws.SetReadDeadline(time.Now().Add(s.opts.DeadAfter))",
				"s.ws.SetReadDeadline(time.Time{})"),
			killedBy(session, "^TestHalfOpen$"),
		},
		{
			"G2/newcomer", at(supervisor+"/serve.go",
				"\tv.want |= bits & whyArrival\n",
				""),
			killedBy(supervisor, "^TestHalfOpenReplacedAfterProbe$"),
		},
		{
			"G3/ended", at(supervisor+"/serve.go",
				"\t\treturn ErrEnded\n",
				"\t\treturn nil\n"),
			killedBy(supervisor, "^TestEndWithoutACauseIsRetried$"),
		},
		{
			"G4/hello-first", at(session+"/write.go",
				"\thello := s.opts.Hello(s.hello)\n",
				"\tif err := s.frames(s.next().frames); err != nil {\n\t\treturn err\n\t}\n\thello := s.opts.Hello(s.hello)\n"),
			killedBy(session, "^TestHelloIsFirst$"),
		},
		{
			"G5/level", at(server+"/server.go",
				"\tif b.dirty == nil {\n",
				"\tif len(b.order) >= 32 {\n\t\tb.mu.Unlock()\n\t\treturn\n\t}\n\tif b.dirty == nil {\n"),
			killedBy(server, "^TestSlowLoopLosesNobody$"),
		},
		{
			"G6/hijacked", at(server+"/server.go",
				"\ts.waiting.closeAll() // here and not beside the loop: who enters later would outlive Run\n",
				""),
			killedBy(server, "^TestShutdownIsBounded$"),
		},
		{
			"G7/leaving", at(supervisor+"/map.go",
				"\tcase e.stopping:\n\t\tif e.next == nil {\n",
				"\tcase false:\n\t\tif e.next == nil {\n"),
			killedBy(supervisor, "^TestNewcomerMeetsTheLeaving$"),
		},
		{
			"G8/one-owner", at(client+"/core.go",
				"\t\t\ta.result <- a.do(c)\n",
				"\t\t\tgo func() { a.result <- a.do(c) }()\n"),
			seenByRace(client, "^TestPlayerPlaysInTime$"),
		},
		{
			"G8/nothing-left", at(client+"/client.go",
				"\t_ = s.conn.Close() // frees both, whatever they wait for\n\twg.Wait()\n",
				""),
			killedBy(client, "^TestRC2ClientCloseIsBounded$"),
		},
		{
			"G9/one-queue", at(session+"/stream.go",
				"\tselect {\n\tcase lane.queue <- streamStep{message: m, era: lane.era.Load()}:\n\t\treturn nil\n\tdefault:\n\t\ts.fail(ErrSlow)\n\t\treturn ErrSlow\n\t}\n",
				"\treturn s.Send(m)\n"),
			killedBy(session, "^TestClearDropsWhatWaits$"),
		},
		{
			"G9/era", at(session+"/stream.go",
				"if x.era != s.streams.era.Load() || x.chunk.Timestamp",
				"if x.chunk.Timestamp"),
			killedBy(session, "^TestClearDropsWhatWaits$"),
		},
		{
			"G9/player", at(client+"/core.go",
				"format: c.state.Stream.Format})",
				"format: c.p.opts.Formats[0]})"),
			killedBy(client, "^TestPlayerChangesFormatInOrder$"),
		},
	}
}
