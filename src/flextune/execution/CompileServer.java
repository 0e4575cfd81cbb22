import java.io.*;
import java.lang.reflect.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import javax.tools.*;

/**
 * A compiler that stays: reads one request a line from standard input, answers one line on standard output.
 *
 * Request: options, class path, output folder and source file, with tabs between (options with spaces between).
 * Answer: "ok", "errors" and what is wrong in one escaped line, or "broken" and why, if the compiler itself failed.
 *
 * It reuses javac's symbol tables from one compilation to the next (JavacTaskPool, which javac keeps for itself), and
 * falls back to the public interface where there is no such pool. The file manager is the same for all compilations,
 * as the pool demands.
 */
public class CompileServer {
    static Path output;

    static class Files extends ForwardingJavaFileManager<StandardJavaFileManager> {
        Files(StandardJavaFileManager manager) {
            super(manager);
        }

        @Override
        public JavaFileObject getJavaFileForOutput(
                Location location, String name, JavaFileObject.Kind kind, FileObject sibling) throws IOException {
            Path path = output.resolve(name.replace('.', '/') + kind.extension);
            return new SimpleJavaFileObject(path.toUri(), kind) {
                @Override
                public OutputStream openOutputStream() throws IOException {
                    java.nio.file.Files.createDirectories(path.getParent());
                    return new BufferedOutputStream(java.nio.file.Files.newOutputStream(path));
                }
            };
        }
    }

    final JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
    final StandardJavaFileManager standard =
            compiler.getStandardFileManager(null, Locale.ROOT, StandardCharsets.UTF_8);
    final Files files = new Files(standard);
    String classPath = "";
    Object pool;
    Method getTask;
    Class<?> worker;

    CompileServer() {
        try {
            Class<?> kind = Class.forName("com.sun.tools.javac.api.JavacTaskPool");
            pool = kind.getConstructor(int.class).newInstance(1);
            for (Method method : kind.getMethods()) {
                if (method.getName().equals("getTask")) {
                    getTask = method;
                }
            }
            worker = Class.forName("com.sun.tools.javac.api.JavacTaskPool$Worker");
        } catch (ReflectiveOperationException | RuntimeException e) {
            pool = null;
        }
    }

    boolean compile(List<String> options, Path source, DiagnosticListener<JavaFileObject> said) throws Exception {
        Iterable<? extends JavaFileObject> units = standard.getJavaFileObjects(source);
        Writer nowhere = Writer.nullWriter();
        if (pool == null) {
            return compiler.getTask(nowhere, files, said, options, null, units).call();
        }
        boolean[] done = {false};
        InvocationHandler call = (proxy, method, arguments) -> {
            done[0] = ((JavaCompiler.CompilationTask) arguments[0]).call();
            return null;
        };
        Object work = Proxy.newProxyInstance(worker.getClassLoader(), new Class<?>[] {worker}, call);
        getTask.invoke(pool, nowhere, files, said, options, null, units, work);
        return done[0];
    }

    String answer(String request) {
        try {
            String[] parts = request.split("\t", -1);
            if (!parts[1].equals(classPath)) {
                classPath = parts[1];
                standard.setLocation(StandardLocation.CLASS_PATH, List.of(new File(classPath)));
            }
            output = Paths.get(parts[2]);
            StringBuilder said = new StringBuilder();
            List<String> options = new ArrayList<>(List.of(parts[0].split(" ")));
            boolean done = compile(options, Paths.get(parts[3]), diagnostic -> {
                if (diagnostic.getKind() == Diagnostic.Kind.ERROR) {
                    said.append(diagnostic).append('\n');
                }
            });
            if (!done && said.length() == 0) {
                return "broken without a word";
            }
            return done ? "ok" : "errors " + escaped(said.toString());
        } catch (Throwable e) {
            return "broken " + escaped(String.valueOf(e));
        }
    }

    static String escaped(String text) {
        String end = text.length() > 8000 ? text.substring(text.length() - 8000) : text;
        return end.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r");
    }

    public static void main(String[] arguments) throws IOException {
        CompileServer server = new CompileServer();
        var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var out = new PrintStream(new FileOutputStream(FileDescriptor.out), true, "UTF-8");
        out.println(server.pool == null ? "public" : "pool");
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            out.println(server.answer(line));
        }
    }
}
