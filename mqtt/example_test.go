package mqtt_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"resonatebridge/mqtt"
)

// A broker, a client that keeps one topic true there, and a look at the result.
func Example() {
	broker, err := mqtt.NewEmbedded("127.0.0.1:0", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	o := mqtt.Options{
		URL:    "mqtt://" + broker.Addr(),
		Will:   mqtt.Message{Topic: "resonate/bridge/state", Payload: []byte("offline")},
		Online: []byte("online"),

		SelftestTopic: "resonate/bridge/selftest",
	}
	client, err := mqtt.New(o)
	if err != nil {
		fmt.Println(err)
		return
	}
	client.Set("resonate/player/kitchen/volume", []byte("25"), mqtt.ClassState)

	var running sync.WaitGroup
	serving, stopServing := context.WithCancel(context.Background())
	running.Go(func() { _ = broker.Run(serving) })
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	running.Go(func() { defer close(ended); _ = client.Run(ctx) })
	for !client.Status().Connected {
		<-client.Changed()
	}
	stop()
	<-ended

	found, err := mqtt.Collect(context.Background(), o, []string{"resonate/#"}, 10*time.Millisecond)
	for _, m := range found {
		fmt.Printf("%s %s\n", m.Topic, m.Payload)
	}
	if err != nil {
		fmt.Println(err)
	}
	stopServing()
	running.Wait()
	// Output:
	// resonate/bridge/state offline
	// resonate/player/kitchen/volume 25
}
