package featurestore.flink;

import java.io.Serializable;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.List;
import org.apache.flink.table.data.ArrayData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.types.logical.ArrayType;
import org.apache.flink.table.types.logical.LogicalType;

/**
 * A tile, or an entity's newest row, as bytes: what {@code docs/tile-records.md} says, held by {@code records.json}.
 *
 * <p>A record is built in one buffer that grows to the longest; what is handed out is a copy.
 */
final class TileRecord implements Serializable {
    static final int VERSION = 1;
    static final int NEWEST = 255;
    static final int HEADER = 8;
    static final int ENTITY = 9;

    private static final VarHandle LITTLE = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);
    private static final VarHandle LITTLE_INT = MethodHandles.byteArrayViewVarHandle(int[].class, ByteOrder.LITTLE_ENDIAN);
    private static final VarHandle BIG = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);
    private static final VarHandle BIG_INT = MethodHandles.byteArrayViewVarHandle(int[].class, ByteOrder.BIG_ENDIAN);

    private enum Kind {
        WHOLE_64, WHOLE_32, WHOLE_16, WHOLE_8, TRUTH, DOUBLE, FLOAT, TEXT, BYTES, LIST
    }

    private final Kind[] kinds;
    private final Kind[] items;
    private final int level;
    private final int keys;
    private final int epoch;
    private final int tail;
    private transient byte[] buffer;
    private transient int length;

    /** {@code keys} columns, then {@code tile} unless it is the newest row, then the rest; as {@code types} says. */
    TileRecord(List<LogicalType> types, int level, int keys, int epoch) {
        this.level = level;
        this.keys = keys;
        this.epoch = epoch;
        kinds = types.stream().map(TileRecord::kind).toArray(Kind[]::new);
        items = types.stream()
                .map(type -> type instanceof ArrayType list ? kind(list.getElementType()) : null)
                .toArray(Kind[]::new);
        tail = HEADER + 8 * kinds.length + 8 * ((kinds.length + 63) / 64);
        if (level < 0 || level > NEWEST || keys < 1 || keys >= kinds.length) {
            throw new IllegalArgumentException("level " + level + " with " + keys + " keys of " + kinds.length + " columns");
        }
        for (int i = 0; i < items.length; i++) {
            if (items[i] == Kind.LIST || items[i] == Kind.BYTES || i < keys && (kinds[i] == Kind.LIST || kinds[i] == Kind.BYTES)) {
                throw new IllegalArgumentException("a record has no place for " + types.get(i) + " in column " + i);
            }
        }
    }

    private static Kind kind(LogicalType type) {
        return switch (type.getTypeRoot()) {
            case BIGINT -> Kind.WHOLE_64;
            case INTEGER, DATE, TIME_WITHOUT_TIME_ZONE -> Kind.WHOLE_32;
            case SMALLINT -> Kind.WHOLE_16;
            case TINYINT -> Kind.WHOLE_8;
            case BOOLEAN -> Kind.TRUTH;
            case DOUBLE -> Kind.DOUBLE;
            case FLOAT -> Kind.FLOAT;
            case CHAR, VARCHAR -> Kind.TEXT;
            case BINARY, VARBINARY -> Kind.BYTES;
            case ARRAY -> Kind.LIST;
            default -> throw new IllegalArgumentException("a record has no place for " + type);
        };
    }

    /** The part of a key that says which entity it is: it alone chooses the partition. */
    static byte[] entity(byte[] key) {
        return Arrays.copyOfRange(key, ENTITY, key.length);
    }

    /** What one record has in common with those that replace it: level, tile, entity. */
    byte[] key(RowData row) {
        start(ENTITY);
        buffer[0] = (byte) level;
        BIG.set(buffer, 1, level == NEWEST ? 0L : row.getLong(keys));
        addEntity(row);
        return Arrays.copyOf(buffer, length);
    }

    private void addEntity(RowData row) {
        for (int i = 0; i < keys; i++) {
            if (row.isNullAt(i)) {
                throw new IllegalStateException("a tile of no entity: key " + i + " is NULL");
            }
            if (kinds[i] == Kind.TEXT) {
                byte[] text = row.getString(i).toBytes();
                int at = grow(4 + text.length);
                BIG_INT.set(buffer, at, text.length);
                System.arraycopy(text, 0, buffer, at + 4, text.length);
            } else {
                int at = grow(8);
                BIG.set(buffer, at, word(row, i));
            }
        }
    }

    byte[] value(RowData row) {
        start(tail);
        Arrays.fill(buffer, 0, tail, (byte) 0);
        buffer[0] = VERSION;
        buffer[1] = (byte) level;
        LITTLE_INT.set(buffer, 4, epoch);
        int nulls = HEADER + 8 * kinds.length;
        for (int i = 0; i < kinds.length; i++) {
            if (row.isNullAt(i)) {
                buffer[nulls + i / 8] |= (byte) (1 << i % 8); // bit i % 64 of a little-endian word is bit i % 8 of a byte
                continue;
            }
            int at = HEADER + 8 * i;
            switch (kinds[i]) {
                case TEXT -> addBytes(at, row.getString(i).toBytes());
                case BYTES -> addBytes(at, row.getBinary(i));
                case LIST -> addList(at, row.getArray(i), items[i]);
                default -> LITTLE.set(buffer, at, word(row, i));
            }
        }
        return Arrays.copyOf(buffer, length);
    }

    private void addBytes(int at, byte[] bytes) {
        int from = grow(bytes.length);
        System.arraycopy(bytes, 0, buffer, from, bytes.length);
        LITTLE_INT.set(buffer, at, from - tail);
        LITTLE_INT.set(buffer, at + 4, bytes.length);
    }

    private void addList(int at, ArrayData list, Kind item) {
        int from = length;
        int size = list.size();
        if (item == Kind.TEXT) {
            grow(4 + 4 * size);
            LITTLE_INT.set(buffer, from, size);
            for (int i = 0; i < size; i++) {
                byte[] text = list.getString(i).toBytes();
                System.arraycopy(text, 0, grown(text.length), length - text.length, text.length);
                LITTLE_INT.set(buffer, from + 4 + 4 * i, text.length);
            }
        } else {
            grow(8 * size);
            for (int i = 0; i < size; i++) {
                LITTLE.set(buffer, from + 8 * i, word(list, i, item));
            }
        }
        LITTLE_INT.set(buffer, at, from - tail);
        LITTLE_INT.set(buffer, at + 4, length - from);
    }

    private long word(RowData row, int i) {
        return switch (kinds[i]) {
            case WHOLE_64 -> row.getLong(i);
            case WHOLE_32 -> row.getInt(i);
            case WHOLE_16 -> row.getShort(i);
            case WHOLE_8 -> row.getByte(i);
            case TRUTH -> row.getBoolean(i) ? 1 : 0;
            case DOUBLE -> Double.doubleToRawLongBits(row.getDouble(i));
            case FLOAT -> Double.doubleToRawLongBits(row.getFloat(i));
            default -> throw new AssertionError(kinds[i]);
        };
    }

    private static long word(ArrayData list, int i, Kind item) {
        return switch (item) {
            case WHOLE_64 -> list.getLong(i);
            case WHOLE_32 -> list.getInt(i);
            case WHOLE_16 -> list.getShort(i);
            case WHOLE_8 -> list.getByte(i);
            case TRUTH -> list.getBoolean(i) ? 1 : 0;
            case DOUBLE -> Double.doubleToRawLongBits(list.getDouble(i));
            case FLOAT -> Double.doubleToRawLongBits(list.getFloat(i));
            default -> throw new AssertionError(item);
        };
    }

    private void start(int fixed) {
        length = 0;
        if (buffer == null) {
            buffer = new byte[Math.max(256, tail)];
        }
        grow(fixed);
    }

    /** Room for so many bytes more; where they begin. */
    private int grow(int more) {
        int from = length;
        length += more;
        if (length > buffer.length) {
            buffer = Arrays.copyOf(buffer, Math.max(length, 2 * buffer.length));
        }
        return from;
    }

    private byte[] grown(int more) {
        grow(more);
        return buffer;
    }
}
