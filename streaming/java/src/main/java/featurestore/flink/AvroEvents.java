package featurestore.flink;

import java.io.ByteArrayInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.time.DateTimeException;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.List;
import org.apache.avro.AvroRuntimeException;
import org.apache.avro.LogicalType;
import org.apache.avro.LogicalTypes;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericFixed;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.util.Utf8;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonProcessingException;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.BooleanNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.DoubleNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.IntNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.LongNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.TextNode;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.functions.ScalarFunction;
import org.apache.flink.table.types.inference.InputTypeStrategies;
import org.apache.flink.table.types.inference.TypeInference;
import org.apache.flink.types.Row;

/** Events from records of Avro, to the values and verdicts of {@link Events}: bare, or behind the number of their schema. */
public final class AvroEvents {
    private AvroEvents() {}

    /** What is known of a topic: the columns, the schema that records were written with, its number if records say it. */
    static final class Spec {
        final List<Events.Column> columns = new ArrayList<>();
        final Schema schema;
        final Long number;

        Spec(String text) {
            try {
                JsonNode told = new ObjectMapper().readTree(text);
                columns.addAll(Events.columns(told.get("columns").toString()));
                schema = new Schema.Parser().parse(told.get("schema").asText());
                number = told.get("number").isNull() ? null : told.get("number").asLong();
            } catch (JsonProcessingException e) {
                throw new IllegalArgumentException("not the columns and schema of an event: " + text, e);
            }
        }
    }

    private static final int HEAD = 5;

    /** The values of an event, in the order of the columns, or Bad with a reason for the one who sent it. */
    static Object[] read(byte[] payload, Spec spec, GenericDatumReader<GenericRecord> reader) throws Events.Bad {
        GenericRecord record = record(payload, start(payload, spec), reader);
        Object[] values = new Object[spec.columns.size()];
        for (int i = 0; i < values.length; i++) {
            Events.Column column = spec.columns.get(i);
            Object value = record.get(column.name());
            if (value == null) {
                continue;
            }
            try {
                values[i] = value(value, branch(spec.schema.getField(column.name()).schema(), value), column);
            } catch (Events.Bad bad) {
                throw new Events.Bad("column '" + column.name() + "': " + bad.getMessage());
            }
        }
        return values;
    }

    private static int start(byte[] payload, Spec spec) throws Events.Bad {
        if (spec.number == null) {
            return 0;
        }
        if (payload.length < HEAD || payload[0] != 0) {
            throw new Events.Bad("not Avro: no number of a schema comes before the record");
        }
        long number = Integer.toUnsignedLong(ByteBuffer.wrap(payload).getInt(1));
        if (number != spec.number) {
            throw new Events.Bad("not Avro: it is of schema " + number + ", and those of this topic are of " + spec.number);
        }
        return HEAD;
    }

    private static GenericRecord record(byte[] payload, int start, GenericDatumReader<GenericRecord> reader) throws Events.Bad {
        try {
            ByteArrayInputStream left = new ByteArrayInputStream(payload, start, payload.length - start);
            BinaryDecoder decoder = DecoderFactory.get().directBinaryDecoder(left, null);
            GenericRecord record = reader.read(null, decoder);
            if (left.available() > 0) {
                throw new Events.Bad("not Avro: there is more behind the record");
            }
            return record;
        } catch (EOFException e) {
            throw new Events.Bad("not Avro: it breaks off");
        } catch (IOException
                | AvroRuntimeException
                | IndexOutOfBoundsException
                | NegativeArraySizeException
                | UnsupportedOperationException
                | OutOfMemoryError e) {
            throw new Events.Bad("not Avro: " + e.getMessage());
        }
    }

    /** The branch of a union that a value is of. */
    private static Schema branch(Schema schema, Object value) {
        if (!schema.isUnion()) {
            return schema;
        }
        return schema.getTypes().get(org.apache.avro.generic.GenericData.get().resolveUnion(schema, value));
    }

    private static Object value(Object value, Schema schema, Events.Column column) throws Events.Bad {
        LogicalType logical = schema.getLogicalType();
        String name = logical == null ? "" : logical.getName();
        switch (name) {
            case "timestamp-micros", "local-timestamp-micros":
                return instant((Long) value, column);
            case "timestamp-millis", "local-timestamp-millis":
                return instant(Math.multiplyExact((Long) value, 1000L), column);
            case "time-micros", "time-millis":
                throw refused(value, column);
            case "date":
                return day((Integer) value, column);
            case "decimal":
                if (!column.kind().equals("Decimal")) {
                    throw refused(value, column);
                }
                byte[] digits = value instanceof GenericFixed fixed ? fixed.bytes() : bytes((ByteBuffer) value);
                int scale = ((LogicalTypes.Decimal) logical).getScale();
                return Events.decimal(digits.length == 0 ? BigDecimal.ZERO : new BigDecimal(new BigInteger(digits), scale), column);
            default:
                return plain(value, schema, column);
        }
    }

    private static Object plain(Object value, Schema schema, Events.Column column) throws Events.Bad {
        return switch (schema.getType()) {
            case STRING -> Events.value(TextNode.valueOf(text((Utf8) value)), column);
            case ENUM -> Events.value(TextNode.valueOf(value.toString()), column);
            case INT -> Events.value(IntNode.valueOf((Integer) value), column);
            case LONG -> Events.value(LongNode.valueOf((Long) value), column);
            case FLOAT -> Events.value(DoubleNode.valueOf((Float) value), column);
            case DOUBLE -> Events.value(DoubleNode.valueOf((Double) value), column);
            case BOOLEAN -> Events.value(BooleanNode.valueOf((Boolean) value), column);
            case ARRAY -> {
                if (!column.kind().startsWith("List") && !column.kind().startsWith("Vector")) {
                    throw refused(value, column);
                }
                yield true;
            }
            default -> throw refused(value, column);
        };
    }

    private static byte[] bytes(ByteBuffer buffer) {
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        return bytes;
    }

    /** Text that is text: Avro itself would put a mark where bytes are none. */
    private static String text(Utf8 value) throws Events.Bad {
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(value.getBytes(), 0, value.getByteLength())).toString();
        } catch (CharacterCodingException e) {
            throw new Events.Bad("not Avro: text that is not UTF-8");
        }
    }

    private static final long FIRST = LocalDate.of(1, 1, 1).toEpochDay() * 86_400_000_000L;
    private static final long LAST = LocalDate.of(10_000, 1, 1).toEpochDay() * 86_400_000_000L - 1;

    private static long instant(long micros, Events.Column column) throws Events.Bad {
        if (!column.kind().equals("Timestamp")) {
            throw refused(micros, column);
        }
        if (micros < FIRST || micros > LAST) {
            throw new Events.Bad("not Avro: a time outside the years 1 to 9999");
        }
        return micros;
    }

    private static Object day(int days, Events.Column column) throws Events.Bad {
        long micros = days * 86_400_000_000L;
        if (micros < FIRST || micros > LAST) {
            throw new Events.Bad("not Avro: a date outside the years 1 to 9999");
        }
        return switch (column.kind()) {
            case "Date" -> (Object) days;
            case "Timestamp" -> (Object) micros;
            default -> throw refused(days, column);
        };
    }

    private static Events.Bad refused(Object value, Events.Column column) {
        return new Events.Bad("a " + value.getClass().getSimpleName() + " is not " + column.kind());
    }

    /** A payload as a row, as {@link Events.JsonEvent} makes it. */
    public static class AvroEvent extends ScalarFunction {
        private transient String known;
        private transient Spec spec;
        private transient GenericDatumReader<GenericRecord> reader;

        @Override
        public boolean isDeterministic() {
            return false;
        }

        public Row eval(byte[] payload, String text) {
            if (!text.equals(known)) {
                spec = new Spec(text);
                reader = new GenericDatumReader<>(spec.schema);
                known = text;
            }
            Row row = new Row(spec.columns.size() + 1);
            try {
                if (payload == null) {
                    throw new Events.Bad("there is nothing in it");
                }
                Object[] values = read(payload, spec, reader);
                for (int i = 0; i < values.length; i++) {
                    row.setField(i + 1, values[i]);
                }
            } catch (Events.Bad bad) {
                row.setField(0, bad.getMessage());
            } catch (ArithmeticException | DateTimeException e) {
                row.setField(0, "not Avro: " + e.getMessage());
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
                            .map(spec -> Events.row(new Spec(spec).columns)))
                    .build();
        }
    }
}
