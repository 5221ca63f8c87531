package timesync

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClock()
		if got, want := c.Now(), Micros(1_000_000); got != want {
			t.Errorf("first reading %d, want %d", got, want)
		}
		time.Sleep(2*time.Second + 3*time.Microsecond + 999)
		if got, want := c.Now(), Micros(3_000_003); got != want {
			t.Errorf("2.000003999 s later %d, want %d", got, want)
		}
	})
}
