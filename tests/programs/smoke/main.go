package main

import (
	"bufio"
	"compress/gzip"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sort"
	"sync"
	"syscall"
	"time"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func files() {
	directory, err := os.MkdirTemp("", "x")
	check(err)
	defer os.RemoveAll(directory)
	name := filepath.Join(directory, "file")
	check(os.WriteFile(name, []byte("one"), 0o644))
	file, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND, 0)
	check(err)
	_, err = file.WriteString("two")
	check(err)
	check(file.Sync())
	check(file.Truncate(4))
	check(file.Close())
	check(os.Rename(name, name+".new"))
	check(os.Symlink("file.new", name))
	check(os.Chmod(name, 0o600))
	entries, err := os.ReadDir(directory)
	check(err)
	info, err := os.Stat(name)
	check(err)
	if len(entries) != 2 || info.Size() != 4 {
		panic("files")
	}
	source, _ := os.Open(name)
	target, _ := os.Create(name + ".copy")
	_, err = io.Copy(target, source)
	check(err)
}

func processes() {
	out, err := exec.Command("sh", "-c", "echo x").Output()
	check(err)
	if string(out) != "x\n" {
		panic("output")
	}
	cat := exec.Command("cat")
	cat.Stdin = bytes.NewReader(make([]byte, 1<<20))
	out, err = cat.Output()
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if exec.CommandContext(ctx, "sleep", "10").Run() == nil || len(out) != 1<<20 {
		panic("timeout")
	}
}

func main() {
	files()
	processes()
	var group sync.WaitGroup
	var mutex sync.Mutex
	sum := 0
	for i := 0; i < 100; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			time.Sleep(time.Millisecond)
			mutex.Lock()
			sum += i
			mutex.Unlock()
		}(i)
	}
	group.Wait()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	check(syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	<-signals
	select {
	case <-time.After(5 * time.Millisecond):
	}
	random := make([]byte, 100)
	_, err := rand.Read(random)
	check(err)
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	writer.Write(random)
	writer.Close()
	text, _ := json.Marshal(map[string]any{"sum": sha256.Sum256(random), "cpus": runtime.NumCPU()})
	numbers := make([]int, 1<<20)
	for i := range numbers {
		numbers[i] = len(text) * (i % 1000)
	}
	sort.Ints(numbers)
	big := make([]byte, 64<<20)
	for i := range big {
		big[i] = 1
	}
	runtime.GC()
	debug.FreeOSMemory()
	func() {
		defer func() { recover() }()
		var nothing *int
		*nothing = 1
	}()
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Print(line[:len(line)-1])
	for _, word := range os.Args[1:] {
		fmt.Print(" ", word)
	}
	fmt.Println()
	fmt.Fprintln(os.Stderr, "bad")
	if sum == 4950 {
		fmt.Println("done")
	}
}
