package featurestore.flink;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.function.UnaryOperator;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.junit.jupiter.api.Test;

class ApplicationTest {
    private static final UnaryOperator<String> ENVIRONMENT = Map.of("BROKERS", "it's:9092")::get;

    private static Application.Job job(String engine, String... programs) throws IOException {
        String all = String.join(", ", programs);
        String text = "{\"engine\": \"" + engine + "\", \"programs\": [" + all + "]}";
        return Application.Job.of(new ObjectMapper().readTree(text), ENVIRONMENT);
    }

    private static String program(String name, String sql) {
        return "{\"name\": \"" + name + "\", \"sql\": \"" + sql + "\"}";
    }

    @Test
    void statementsAreOfThreeKinds() throws IOException {
        Application.Job job =
                job(
                        "flink",
                        program("settings", "SET 'a' = 'b';\\nSET 'c.d' = '5 s'"),
                        program("functions", "CREATE FUNCTION f AS 'F';\\nCREATE FUNCTION g AS 'G'"),
                        program("payloads", "CREATE TABLE t WITH ('s' = '${BROKERS}')"),
                        program("tiles", "INSERT INTO o SELECT ';\\n' FROM t"));
        assertEquals(Map.of("a", "b", "c.d", "5 s"), job.settings.toMap());
        assertEquals(
                List.of(
                        "CREATE FUNCTION f AS 'F'",
                        "CREATE FUNCTION g AS 'G'",
                        "CREATE TABLE t WITH ('s' = 'it''s:9092')"),
                job.statements);
        assertEquals(List.of("INSERT INTO o SELECT ';\n' FROM t"), job.inserts);
    }

    @Test
    void whatIsNoJobIsRefused() {
        IllegalArgumentException other =
                assertThrows(
                        IllegalArgumentException.class, () -> job("duckdb", program("tiles", "INSERT INTO o")));
        assertTrue(other.getMessage().contains("duckdb"), other.getMessage());
        assertThrows(IllegalArgumentException.class, () -> job("flink", program("payloads", "CREATE TABLE t")));
        IllegalArgumentException unset =
                assertThrows(
                        IllegalArgumentException.class,
                        () -> job("flink", program("tiles", "INSERT INTO o SELECT '${NOT_SET}'")));
        assertTrue(unset.getMessage().contains("NOT_SET"), unset.getMessage());
    }
}
