import java.io.FileInputStream;
import java.io.InputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * A TLS client: {@code java Client.java tls|connect HOST PORT NAME NAME_PORT CA} prints the answer to a GET.
 * A refusal goes to stderr: the TLS error (exit 1), or the whole answer of a proxy that does not say 200 (exit 2).
 */
public class Client {
    public static void main(String[] args) throws Exception {
        String name = args[3];
        Socket plain = new Socket(args[1], Integer.parseInt(args[2]));
        if (args[0].equals("connect")) {
            String target = name + ":" + args[4];
            send(plain.getOutputStream(), "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n");
            String head = readHead(plain.getInputStream());
            if (!head.startsWith("HTTP/1.1 200 ")) {
                System.err.print(head);
                System.err.write(plain.getInputStream().readAllBytes());
                System.exit(2);
            }
        }
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust(args[5]).getTrustManagers(), null);
        SSLSocket secure = (SSLSocket) context.getSocketFactory().createSocket(plain, name, 443, true);
        try {
            send(secure.getOutputStream(), "GET / HTTP/1.1\r\nHost: " + name + "\r\nConnection: close\r\n\r\n");
            secure.getInputStream().transferTo(System.out);
            System.out.flush();
        } catch (SSLException error) {
            System.err.println(error);
            System.exit(1);
        }
    }

    private static TrustManagerFactory trust(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream pem = new FileInputStream(file)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(store);
        return factory;
    }

    private static void send(OutputStream out, String text) throws IOException {
        out.write(text.getBytes(StandardCharsets.US_ASCII));
        out.flush();
    }

    private static String readHead(InputStream in) throws IOException {
        StringBuilder head = new StringBuilder();
        while (head.indexOf("\r\n\r\n") < 0) {
            int next = in.read();
            if (next < 0) {
                break;
            }
            head.append((char) next);
        }
        return head.toString();
    }
}
