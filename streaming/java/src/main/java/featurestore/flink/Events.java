package featurestore.flink;

import java.io.IOException;
import java.math.BigDecimal;
import java.math.MathContext;
import java.nio.charset.StandardCharsets;
import java.time.DateTimeException;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonProcessingException;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.json.JsonReadFeature;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.DeserializationFeature;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.json.JsonMapper;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.functions.ScalarFunction;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.inference.InputTypeStrategies;
import org.apache.flink.table.types.inference.TypeInference;

/** Events from bytes: exact values in their physical form, or what is wrong with the event; never an error of the job. */
public final class Events {
    private Events() {}

    /** A column of an event. {@code kind} is the name of a type without its digits; of a list only its presence is asked. */
    record Column(String name, String kind, int precision, int scale) {
        private static final Pattern DECIMAL = Pattern.compile("Decimal\\((\\d+), (\\d+)\\)");

        static Column of(String name, String type) {
            Matcher digits = DECIMAL.matcher(type);
            if (digits.matches()) {
                return new Column(name, "Decimal", Integer.parseInt(digits.group(1)), Integer.parseInt(digits.group(2)));
            }
            return new Column(name, type, 0, 0);
        }

        DataType type() {
            return switch (kind) {
                case "String" -> DataTypes.STRING();
                case "Int64", "Timestamp", "Decimal" -> DataTypes.BIGINT();
                case "Int32", "Date" -> DataTypes.INT();
                case "Float64" -> DataTypes.DOUBLE();
                case "Float32" -> DataTypes.FLOAT();
                case "Bool" -> DataTypes.BOOLEAN();
                default -> DataTypes.BOOLEAN();
            };
        }
    }

    static final class Bad extends Exception {
        Bad(String reason) {
            super(reason);
        }
    }

    private static final JsonMapper JSON = JsonMapper.builder()
            .enable(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS)
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .build();

    static List<Column> columns(String spec) {
        try {
            List<Column> columns = new ArrayList<>();
            for (JsonNode column : new ObjectMapper().readTree(spec)) {
                columns.add(Column.of(column.get(0).asText(), column.get(1).asText()));
            }
            return columns;
        } catch (JsonProcessingException e) {
            throw new IllegalArgumentException("not the columns of an event: " + spec, e);
        }
    }

    /** What a function that reads events gives: what is wrong with one, and its columns. */
    static DataType row(List<Column> columns) {
        List<DataTypes.Field> fields = new ArrayList<>();
        fields.add(DataTypes.FIELD("#problem", DataTypes.STRING()));
        for (Column column : columns) {
            fields.add(DataTypes.FIELD(column.name, column.type()));
        }
        return DataTypes.ROW(fields);
    }

    /** The values of an event, in the order of the columns, or Bad with a reason for the one who sent it. */
    static Object[] read(byte[] payload, List<Column> columns) throws Bad {
        JsonNode event;
        try {
            event = JSON.readTree(payload);
        } catch (IOException e) {
            throw new Bad("not JSON: " + e.getMessage().lines().findFirst().orElse(""));
        }
        if (!event.isObject()) {
            throw new Bad("an event is a JSON object");
        }
        Object[] values = new Object[columns.size()];
        for (int i = 0; i < values.length; i++) {
            Column column = columns.get(i);
            JsonNode value = event.get(column.name);
            if (value == null) {
                throw new Bad("column '" + column.name + "': the column is missing (write null where there is none)");
            }
            if (!value.isNull()) {
                try {
                    values[i] = value(value, column);
                } catch (Bad bad) {
                    throw new Bad("column '" + column.name + "': " + bad.getMessage());
                }
            }
        }
        if (event.size() > values.length) {
            throw new Bad("column '" + unknown(event, columns) + "': the source has no such column");
        }
        return values;
    }

    private static String unknown(JsonNode event, List<Column> columns) {
        Map<String, Column> known = new LinkedHashMap<>();
        columns.forEach(column -> known.put(column.name, column));
        for (Iterator<String> names = event.fieldNames(); names.hasNext(); ) {
            String name = names.next();
            if (!known.containsKey(name)) {
                return name;
            }
        }
        throw new AssertionError("more fields than columns, and none unknown");
    }

    static Object value(JsonNode value, Column column) throws Bad {
        switch (column.kind) {
            case "String":
                if (!value.isTextual()) {
                    throw refused(value, column);
                }
                if (!StandardCharsets.UTF_8.newEncoder().canEncode(value.asText())) {
                    throw new Bad("text with half a surrogate pair is not valid text");
                }
                return value.asText();
            case "Int64":
                return whole(value, column, 63);
            case "Int32":
                return (int) whole(value, column, 31);
            case "Float64":
                return number(value, column);
            case "Float32":
                double wide = number(value, column);
                if (Double.isFinite(wide) && Math.abs(wide) > Float.MAX_VALUE) {
                    throw new Bad(value + " is outside Float32");
                }
                return (float) wide;
            case "Bool":
                if (!value.isBoolean()) {
                    throw refused(value, column);
                }
                return value.asBoolean();
            case "Timestamp":
                return instant(value, column);
            case "Date":
                try {
                    return (int) LocalDate.parse(text(value, column)).toEpochDay();
                } catch (DateTimeException e) {
                    throw refused(value, column);
                }
            case "Decimal":
                return decimal(value, column);
            default:
                return true;
        }
    }

    private static long whole(JsonNode value, Column column, int bits) throws Bad {
        if (!value.isIntegralNumber()) {
            throw refused(value, column);
        }
        if (value.bigIntegerValue().bitLength() > bits) {
            throw new Bad(value + " is outside " + column.kind);
        }
        return value.longValue();
    }

    private static double number(JsonNode value, Column column) throws Bad {
        if (!value.isNumber()) {
            throw refused(value, column);
        }
        if (value.isIntegralNumber() && value.bigIntegerValue().abs().compareTo(java.math.BigInteger.ONE.shiftLeft(53)) > 0) {
            throw new Bad(value + " has more digits than " + column.kind);
        }
        return value.doubleValue();
    }

    private static final int VOUCHED = 15; // every decimal of so many digits comes back from a double as it was

    private static long decimal(JsonNode value, Column column) throws Bad {
        BigDecimal number;
        try {
            if (value.isIntegralNumber()) {
                number = new BigDecimal(value.bigIntegerValue());
            } else if (value.isNumber()) {
                double x = value.doubleValue();
                number = new BigDecimal(x).round(new MathContext(VOUCHED));
                if (number.doubleValue() != x) {
                    throw new Bad(value + " is a float of more digits than it can vouch for: write the decimal as text");
                }
            } else {
                number = new BigDecimal(text(value, column));
            }
        } catch (NumberFormatException e) {
            throw refused(value, column);
        }
        return decimal(number, column);
    }

    static long decimal(BigDecimal value, Column column) throws Bad {
        BigDecimal plain = value.stripTrailingZeros();
        if (plain.precision() - plain.scale() > column.precision - column.scale && plain.signum() != 0) {
            throw new Bad(value + " has too many digits before the point");
        }
        if (plain.scale() > column.scale) {
            throw new Bad(value + " has more than " + column.scale + " digits after the point");
        }
        return plain.setScale(column.scale).unscaledValue().longValueExact();
    }

    private static final Pattern INSTANT = Pattern.compile(
            "(\\d{4}-\\d{2}-\\d{2})(?:[T ](\\d{2}:\\d{2}(?::\\d{2})?)(?:[.,](\\d{1,9}))?(Z|[+-]\\d{2}:\\d{2}(?::\\d{2})?)?)?");

    /** ISO 8601; without an offset it is UTC, digits beyond microseconds are cut. */
    private static long instant(JsonNode value, Column column) throws Bad {
        Matcher parts = INSTANT.matcher(text(value, column));
        if (!parts.matches()) {
            throw refused(value, column);
        }
        try {
            LocalTime time = parts.group(2) == null ? LocalTime.MIDNIGHT : LocalTime.parse(parts.group(2));
            LocalDateTime local = LocalDate.parse(parts.group(1)).atTime(time);
            ZoneOffset offset = parts.group(4) == null ? ZoneOffset.UTC : ZoneOffset.of(parts.group(4));
            String fraction = parts.group(3) == null ? "" : parts.group(3);
            long micros = Long.parseLong((fraction + "000000").substring(0, 6));
            return local.toEpochSecond(offset) * 1_000_000 + micros;
        } catch (DateTimeException e) {
            throw refused(value, column);
        }
    }

    private static String text(JsonNode value, Column column) throws Bad {
        if (!value.isTextual()) {
            throw refused(value, column);
        }
        return value.asText();
    }

    private static final int SHOWN = 60;

    private static Bad refused(JsonNode value, Column column) {
        String shown = value.toString();
        String type = column.kind.equals("Decimal") ? "Decimal(" + column.precision + ", " + column.scale + ")" : column.kind;
        return new Bad((shown.length() <= SHOWN ? shown : shown.substring(0, SHOWN - 3) + "…") + " is not " + type);
    }

    /**
     * A payload as a row: {@code #problem} (null if it is an event) and its columns.
     *
     * <p>Not called deterministic, so that the planner does not write a call for each column that is read.
     */
    public static class JsonEvent extends ScalarFunction {
        private transient String known;
        private transient List<Column> columns;
        private transient FastEvents fast;

        @Override
        public boolean isDeterministic() {
            return false;
        }

        public RowData eval(byte[] payload, String spec) {
            if (!spec.equals(known)) {
                columns = columns(spec);
                fast = new FastEvents(columns);
                known = spec;
            }
            GenericRowData row = new GenericRowData(columns.size() + 1);
            if (payload != null && fast.read(payload, row)) {
                return row;
            }
            row = new GenericRowData(columns.size() + 1);
            try {
                if (payload == null) {
                    throw new Bad("there is nothing in it");
                }
                Object[] values = read(payload, columns);
                for (int i = 0; i < values.length; i++) {
                    row.setField(i + 1, values[i] instanceof String text ? StringData.fromString(text) : values[i]);
                }
            } catch (Bad bad) {
                row.setField(0, StringData.fromString(bad.getMessage()));
            }
            return row;
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return TypeInference.newBuilder()
                    .inputTypeStrategy(InputTypeStrategies.sequence(
                            InputTypeStrategies.explicit(DataTypes.BYTES()),
                            InputTypeStrategies.and(
                                    InputTypeStrategies.explicit(DataTypes.STRING()), InputTypeStrategies.LITERAL)))
                    .outputTypeStrategy(call -> call.getArgumentValue(1, String.class)
                            .map(spec -> row(columns(spec)).bridgedTo(RowData.class)))
                    .build();
        }
    }
}
