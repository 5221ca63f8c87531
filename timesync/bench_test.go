package timesync

import (
	"sync"
	"testing"
)

// BenchmarkFilterUpdate includes the one allocation that publishing costs: a
// model that readers may keep cannot be written a second time.
func BenchmarkFilterUpdate(b *testing.B) {
	f := NewFilter(Config{})
	at, flip := Micros(0), Micros(200)
	b.ReportAllocs()
	for b.Loop() {
		at += 10_000_000
		flip = -flip
		f.Update(at/50_000+flip, 400, at)
	}
}

func benchModel() *Model {
	f := NewFilter(Config{})
	for i := range Micros(10) {
		f.Update(i*200, 300, (i+1)*10_000_000)
	}
	return f.Model()
}

func BenchmarkModelServer(b *testing.B) { benchConvert(b, (*Model).Server) }

func BenchmarkModelClient(b *testing.B) { benchConvert(b, (*Model).Client) }

// benchConvert has two rows: times that are known beforehand, and each time
// computed from the result before, so that conversions cannot overlap.
func benchConvert(b *testing.B, convert func(*Model, Micros) Micros) {
	m := benchModel()
	if m.drift == 0 {
		b.Fatal("the model uses no drift")
	}
	b.Run("independent", func(b *testing.B) {
		at, sum := Micros(0), Micros(0)
		b.ReportAllocs()
		for b.Loop() {
			at += 20_000
			sum += convert(m, at)
		}
	})
	b.Run("chained", func(b *testing.B) {
		at := Micros(0)
		b.ReportAllocs()
		for b.Loop() {
			at = convert(m, at) & 0xffff_ffff
		}
	})
}

// BenchmarkReadersWhileWriting is one load and one conversion, on every
// processor at once, while a writer updates without pause; a real one does so
// every ten seconds.
func BenchmarkReadersWhileWriting(b *testing.B) {
	f := NewFilter(Config{})
	f.Update(0, 400, 1)
	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() { // until the readers are done
		for at := Micros(2); ; at += 1000 {
			select {
			case <-done:
				return
			default:
				f.Update(at%7, 400, at)
			}
		}
	})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		x := Micros(0)
		for pb.Next() {
			x = f.Model().Server(x) & 0xffff_ffff
		}
	})
	close(done)
	writing.Wait()
}
