package featurestore.flink;

import java.io.BufferedWriter;
import java.io.IOException;
import java.lang.reflect.Array;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.TableResult;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.functions.ScalarFunction;
import org.apache.flink.table.types.inference.InputTypeStrategies;
import org.apache.flink.table.types.inference.TypeInference;
import org.apache.flink.types.Row;
import org.apache.flink.types.RowKind;
import org.apache.flink.util.CloseableIterator;

/** The rows of a query that ends, in a file: what a check reads back. */
public final class Collected {
    private Collected() {}

    /**
     * Runs a query to its end and writes one JSON object a line. Of rows that agree in their first {@code keys} columns the
     * last one that came stays, as in an upsert table; with 0 keys all stay. Returns how many changes came.
     */
    public static long write(TableResult result, int keys, String path) throws Exception {
        long changes = 0;
        List<Row> rows = new ArrayList<>();
        Map<List<Object>, Row> last = new LinkedHashMap<>();
        try (CloseableIterator<Row> all = result.collect()) {
            while (all.hasNext()) {
                Row row = all.next();
                changes++;
                if (keys == 0) {
                    rows.add(row);
                    continue;
                }
                List<Object> key = new ArrayList<>();
                for (int i = 0; i < keys; i++) {
                    key.add(row.getField(i));
                }
                if (row.getKind() == RowKind.DELETE) {
                    last.remove(key);
                } else if (row.getKind() != RowKind.UPDATE_BEFORE) {
                    last.put(key, row);
                }
            }
        }
        save(keys == 0 ? rows : List.copyOf(last.values()), Path.of(path));
        return changes;
    }

    /** Any value as JSON text, so that rows of many shapes fit one query. */
    public static class Json extends ScalarFunction {
        private static final ObjectMapper JSON = new ObjectMapper();

        public String eval(Object value) {
            try {
                return JSON.writeValueAsString(plain(value));
            } catch (IOException e) {
                throw new AssertionError("what is plain has a text", e);
            }
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return TypeInference.newBuilder()
                    .inputTypeStrategy(InputTypeStrategies.sequence(InputTypeStrategies.ANY))
                    .outputTypeStrategy(call -> Optional.of(DataTypes.STRING()))
                    .build();
        }
    }

    private static void save(List<Row> rows, Path path) throws IOException {
        ObjectMapper json = new ObjectMapper();
        try (BufferedWriter out = Files.newBufferedWriter(path)) {
            for (Row row : rows) {
                out.write(json.writeValueAsString(plain(row)));
                out.write('\n');
            }
        }
    }

    private static Object plain(Object value) {
        if (value instanceof Row row) {
            Map<String, Object> fields = new LinkedHashMap<>();
            if (row.getFieldNames(true) == null) { // what EXPLAIN gives
                for (int i = 0; i < row.getArity(); i++) {
                    fields.put("f" + i, plain(row.getField(i)));
                }
                return fields;
            }
            for (String name : row.getFieldNames(true)) {
                fields.put(name, plain(row.getField(name)));
            }
            return fields;
        }
        if (value != null && value.getClass().isArray()) {
            List<Object> items = new ArrayList<>();
            for (int i = 0; i < Array.getLength(value); i++) {
                items.add(plain(Array.get(value, i)));
            }
            return items;
        }
        return value;
    }
}
