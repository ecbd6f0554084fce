package featurestore.flink;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.function.UnaryOperator;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.StatementSet;
import org.apache.flink.table.api.TableEnvironment;

/**
 * The main class of a cluster in application mode, which runs one job and nothing else: {@code Application JOB.json}, the file
 * that {@code fs compile VIEW --engine flink --json} prints. It is read as `fsflink/job.py` reads it.
 */
public final class Application {
    private static final Pattern SETTING = Pattern.compile("SET '([^']*)' = '([^']*)'", Pattern.DOTALL);
    private static final Pattern VARIABLE = Pattern.compile("\\$\\{(\\w+)\\}");

    private Application() {}

    public static void main(String[] arguments) throws IOException {
        if (arguments.length != 1) {
            throw new IllegalArgumentException("usage: Application JOB.json");
        }
        Job job = Job.of(new ObjectMapper().readTree(new File(arguments[0])), System::getenv);
        TableEnvironment environment =
                TableEnvironment.create(
                        EnvironmentSettings.newInstance().withConfiguration(job.settings).build());
        job.statements.forEach(environment::executeSql);
        StatementSet together = environment.createStatementSet();
        job.inserts.forEach(together::addInsertSql);
        together.execute();
    }

    /** Statements by kind: settings, what is run one by one, and the inserts, which are one job together. */
    static final class Job {
        final Configuration settings = new Configuration();
        final List<String> statements = new ArrayList<>();
        final List<String> inserts = new ArrayList<>();

        /** Variables are taken from {@code environment}, which gives null for one that is not set. */
        static Job of(JsonNode told, UnaryOperator<String> environment) {
            if (!"flink".equals(told.path("engine").asText())) {
                throw new IllegalArgumentException(
                        "it was compiled for " + told.path("engine").asText("nothing") + ": add --engine flink");
            }
            Job job = new Job();
            for (JsonNode program : told.path("programs")) {
                String name = program.path("name").asText();
                String sql = program.path("sql").asText();
                boolean listed = name.equals("settings") || name.equals("functions");
                for (String statement : listed ? sql.split(";\n") : new String[] {sql}) {
                    job.add(expanded(statement, environment));
                }
            }
            if (job.inserts.isEmpty()) {
                throw new IllegalArgumentException("it inserts nothing: it is no job of a view");
            }
            return job;
        }

        private void add(String statement) {
            Matcher setting = SETTING.matcher(statement);
            if (setting.matches()) {
                settings.setString(setting.group(1), setting.group(2));
            } else if (statement.startsWith("INSERT ")) {
                inserts.add(statement);
            } else {
                statements.add(statement);
            }
        }

        private static String expanded(String text, UnaryOperator<String> environment) {
            return VARIABLE
                    .matcher(text)
                    .replaceAll(
                            found -> {
                                String value = environment.apply(found.group(1));
                                if (value == null) {
                                    throw new IllegalArgumentException(
                                            "${" + found.group(1) + "} is not set in the environment");
                                }
                                return Matcher.quoteReplacement(value.replace("'", "''"));
                            });
        }
    }
}
