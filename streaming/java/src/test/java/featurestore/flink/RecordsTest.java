package featurestore.flink;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.table.data.GenericArrayData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.types.logical.ArrayType;
import org.apache.flink.table.types.logical.BigIntType;
import org.apache.flink.table.types.logical.BooleanType;
import org.apache.flink.table.types.logical.DoubleType;
import org.apache.flink.table.types.logical.FloatType;
import org.apache.flink.table.types.logical.IntType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.MapType;
import org.apache.flink.table.types.logical.VarCharType;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** Records to the byte, by vectors that Python wrote. */
class RecordsTest {
    private static LogicalType type(String name) {
        if (name.startsWith("ARRAY<")) {
            return new ArrayType(type(name.substring(6, name.length() - 1)));
        }
        return switch (name) {
            case "BIGINT" -> new BigIntType();
            case "INT" -> new IntType();
            case "BOOLEAN" -> new BooleanType();
            case "DOUBLE" -> new DoubleType();
            case "FLOAT" -> new FloatType();
            default -> VarCharType.STRING_TYPE;
        };
    }

    private static Object value(JsonNode node, LogicalType type) {
        if (node.isNull()) {
            return null;
        }
        if (type instanceof ArrayType list) {
            return new GenericArrayData(StreamSupport.stream(node.spliterator(), false)
                    .map(item -> value(item, list.getElementType()))
                    .toArray());
        }
        return switch (type.getTypeRoot()) {
            case BIGINT -> node.longValue();
            case INTEGER -> node.intValue();
            case BOOLEAN -> node.booleanValue();
            case DOUBLE -> node.doubleValue();
            case FLOAT -> node.floatValue();
            default -> StringData.fromString(node.textValue());
        };
    }

    @TestFactory
    Stream<DynamicTest> everyRecordIsThatOfPython() throws IOException {
        try (InputStream file = RecordsTest.class.getResourceAsStream("/records.json")) {
            List<DynamicTest> tests = new ArrayList<>();
            for (JsonNode vector : new ObjectMapper().readTree(file)) {
                tests.add(DynamicTest.dynamicTest(vector.get("name").asText(), () -> check(vector)));
            }
            return tests.stream();
        }
    }

    private static void check(JsonNode vector) {
        List<LogicalType> types = new ArrayList<>();
        vector.get("columns").forEach(column -> types.add(type(column.get(1).asText())));
        GenericRowData row = new GenericRowData(types.size());
        for (int i = 0; i < types.size(); i++) {
            row.setField(i, value(vector.get("row").get(i), types.get(i)));
        }
        int epoch = (int) vector.get("epoch").longValue();
        TileRecord record = new TileRecord(types, vector.get("level").intValue(), vector.get("keys").intValue(), epoch);
        HexFormat hex = HexFormat.of();
        for (int again = 0; again < 2; again++) { // the buffer is used anew
            assertArrayEquals(hex.parseHex(vector.get("value").asText()), record.value(row));
            assertArrayEquals(hex.parseHex(vector.get("key").asText()), record.key(row));
        }
        assertEquals(vector.get("partition_of_8").intValue(), TilesSinkFactory.partition(TileRecord.entity(record.key(row)), 8));
    }

    @Test
    void whatHasNoPlaceIsRefused() {
        LogicalType whole = new BigIntType();
        LogicalType map = new MapType(whole, whole);
        assertThrows(IllegalArgumentException.class, () -> new TileRecord(List.of(whole, whole, map), 0, 1, 1));
        assertThrows(IllegalArgumentException.class, () -> new TileRecord(List.of(whole, whole), 256, 1, 1));
        assertThrows(IllegalArgumentException.class, () -> new TileRecord(List.of(new ArrayType(whole), whole), 0, 1, 1));
        assertThrows(IllegalArgumentException.class, () -> new TileRecord(List.of(whole), 0, 1, 1));
    }
}
