import java.io.*;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.*;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.ZonedDateTime;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.*;
import java.util.zip.*;

public class Main {
    static void files() throws Exception {
        Path directory = Files.createTempDirectory("x"), file = directory.resolve("file");
        Files.writeString(file, "one\ntwo\n");
        try (RandomAccessFile random = new RandomAccessFile(file.toFile(), "rw"); FileChannel channel = random.getChannel()) {
            random.seek(4);
            random.write("TWO".getBytes());
            channel.truncate(7);
            channel.force(true);
            ByteBuffer mapped = channel.map(FileChannel.MapMode.READ_WRITE, 0, 7);
            if (mapped.get(4) != 'T') throw new Exception("mapped");
            channel.lock().release();
        }
        Files.move(file, directory.resolve("new"));
        Files.createSymbolicLink(file, Path.of("new"));
        Files.copy(file, directory.resolve("copy"));
        if (Files.list(directory).count() != 3 || Files.size(file) != 7) throw new Exception("files");
        Files.walk(directory).sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
    }

    static int depth(int n) { return depth(n + 1) + 1; }

    public static void main(String[] args) throws Exception {
        files();
        Process child = new ProcessBuilder("sh", "-c", "cat; exit 3").start();
        child.getOutputStream().close();
        if (child.waitFor() != 3) throw new Exception("child");
        ExecutorService pool = Executors.newFixedThreadPool(4);
        AtomicInteger sum = new AtomicInteger();
        List<Future<Integer>> futures = new ArrayList<>();
        for (int i = 0; i < 100; i++) { int n = i; futures.add(pool.submit(() -> sum.addAndGet(n))); }
        for (Future<Integer> future : futures) future.get();
        pool.shutdown();
        ScheduledExecutorService timer = Executors.newScheduledThreadPool(1);
        timer.schedule(() -> sum.incrementAndGet(), 5, TimeUnit.MILLISECONDS).get();
        timer.shutdownNow();
        if (sum.get() != 4951) throw new Exception("sum");
        if (IntStream.range(0, 1000).parallel().sum() != 499500) throw new Exception("parallel");
        CompletableFuture.supplyAsync(() -> 7).thenApply(n -> n + 1).get();
        Thread.sleep(Duration.ofMillis(5).toMillis());
        try { depth(0); } catch (StackOverflowError expected) { }
        try { Object nothing = null; nothing.hashCode(); } catch (NullPointerException expected) { }
        MessageDigest.getInstance("SHA-256").digest(new byte[1 << 20]);
        new java.security.SecureRandom().nextInt();
        ByteArrayOutputStream packed = new ByteArrayOutputStream();
        try (GZIPOutputStream gzip = new GZIPOutputStream(packed)) { gzip.write(new byte[1 << 20]); }
        List<int[]> garbage = new ArrayList<>();
        for (int i = 0; i < 200; i++) { garbage.add(new int[1 << 16]); if (i % 50 == 0) garbage.clear(); }
        System.gc();
        ZonedDateTime.now().toString();
        Runtime.getRuntime().availableProcessors();
        String line = new BufferedReader(new InputStreamReader(System.in)).readLine();
        System.out.println(Stream.concat(Stream.of(line), Stream.of(args)).collect(Collectors.joining(" ")));
        System.err.println("bad");
        System.out.println("done");
    }
}
