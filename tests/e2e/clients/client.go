// A TLS client: `client tls|connect HOST PORT NAME NAME_PORT CA` prints the answer to a GET.
// A refusal goes to stderr: the TLS error (exit 1), or the whole answer of a proxy that does not say 200 (exit 2).
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

func main() {
	mode, address, name := os.Args[1], net.JoinHostPort(os.Args[2], os.Args[3]), os.Args[4]
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(os.Args[6])
	check(err)
	roots.AppendCertsFromPEM(pem)
	plain, err := net.Dial("tcp", address)
	check(err)
	if mode == "connect" {
		target := net.JoinHostPort(name, os.Args[5])
		fmt.Fprintf(plain, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
		reader := bufio.NewReader(plain)
		var head strings.Builder
		for !strings.HasSuffix(head.String(), "\r\n\r\n") {
			line, err := reader.ReadString('\n')
			check(err)
			head.WriteString(line)
		}
		if !strings.HasPrefix(head.String(), "HTTP/1.1 200 ") {
			body, _ := io.ReadAll(reader)
			fmt.Fprint(os.Stderr, head.String(), string(body))
			os.Exit(2)
		}
	}
	secure := tls.Client(plain, &tls.Config{ServerName: name, RootCAs: roots})
	_, err = fmt.Fprintf(secure, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", name)
	check(err)
	_, err = io.Copy(os.Stdout, secure)
	check(err)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
