// A read states service in Go, as the authors of "Why Discord is switching from Go to Rust" (2020)
// describe theirs: partitioned LRU caches of read states whose counters change in place, each change
// committed 30 seconds later, and on eviction.
//
//	go_service -capacity N -log FILE [-port P]
//
// It writes the port it listens on to its standard output. The runtime is left as it is: with so little
// garbage a collection begins when the runtime forces one, which it does every two minutes.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	port := flag.Int("port", 0, "port to listen on, 0 for any that is free")
	capacity := flag.Int("capacity", 5_000_000, "read states to keep in memory")
	path := flag.String("log", "", "file that commits are appended to")
	flag.Parse()

	commits, err := openCommitLog(*path)
	if err != nil {
		log.Fatal(err)
	}
	cache, err := newCache(*capacity, commits)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)

	go commits.writeForever()
	go cache.commitForever()
	go func() { log.Fatal(serve(listener, cache)) }()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
