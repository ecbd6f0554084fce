package featurestore.flink;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Instant;
import java.time.LocalDate;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.connector.file.src.FileSourceSplit;
import org.apache.flink.connector.file.src.reader.BulkFormat;
import org.apache.flink.connector.file.src.util.RecordAndPosition;
import org.apache.flink.connector.file.table.factories.BulkReaderFormatFactory;
import org.apache.flink.connector.file.table.format.BulkDecodingFormat;
import org.apache.flink.core.fs.FSDataInputStream;
import org.apache.flink.core.fs.FileSystem;
import org.apache.flink.core.fs.Path;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonGenerator;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.json.JsonWriteFeature;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.source.DynamicTableSource;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DynamicTableFactory;
import org.apache.flink.table.types.DataType;
import org.apache.parquet.ParquetReadOptions;
import org.apache.parquet.column.page.PageReadStore;
import org.apache.parquet.conf.PlainParquetConfiguration;
import org.apache.parquet.example.data.Group;
import org.apache.parquet.example.data.simple.convert.GroupRecordConverter;
import org.apache.parquet.hadoop.ParquetFileReader;
import org.apache.parquet.io.ColumnIOFactory;
import org.apache.parquet.io.DelegatingSeekableInputStream;
import org.apache.parquet.io.InputFile;
import org.apache.parquet.io.RecordReader;
import org.apache.parquet.io.SeekableInputStream;
import org.apache.parquet.schema.LogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.DateLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.DecimalLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.EnumLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.IntLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.StringLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.TimestampLogicalTypeAnnotation;
import org.apache.parquet.schema.MessageType;
import org.apache.parquet.schema.PrimitiveType;
import org.apache.parquet.schema.Type;

/**
 * Rows of Parquet files as payloads of JSON events, so that a job over files is the job over a topic: the format
 * {@code fs-parquet} of the connector {@code filesystem}, for a table of one column of bytes. A row group is read at a time.
 *
 * <p>What no event can say (a time outside the years 1 to 9999, bytes) ends the job: nothing is left out without a word.
 */
public final class ParquetEvents implements BulkReaderFormatFactory {
    private static final ConfigOption<String> COLUMNS =
            ConfigOptions.key("columns").stringType().noDefaultValue().withDescription("A list of names, as JSON.");

    @Override
    public String factoryIdentifier() {
        return "fs-parquet";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of(COLUMNS);
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of();
    }

    @Override
    public BulkDecodingFormat<RowData> createDecodingFormat(DynamicTableFactory.Context context, ReadableConfig options) {
        List<String> columns = new ArrayList<>();
        Events.columns(options.get(COLUMNS)).forEach(column -> columns.add(column.name()));
        return new BulkDecodingFormat<>() {
            @Override
            public BulkFormat<RowData, FileSourceSplit> createRuntimeDecoder(DynamicTableSource.Context source, DataType type) {
                TypeInformation<RowData> produced = source.createTypeInformation(type);
                return new Payloads(columns, produced);
            }

            @Override
            public ChangelogMode getChangelogMode() {
                return ChangelogMode.insertOnly();
            }
        };
    }

    /** One row of one column for each row of a file. */
    private record Payloads(List<String> columns, TypeInformation<RowData> produced) implements BulkFormat<RowData, FileSourceSplit> {
        @Override
        public Reader<RowData> createReader(Configuration config, FileSourceSplit split) throws IOException {
            return new Rows(columns, split);
        }

        @Override
        public Reader<RowData> restoreReader(Configuration config, FileSourceSplit split) throws IOException {
            return new Rows(columns, split);
        }

        @Override
        public boolean isSplittable() {
            return true; // a row group belongs to the split that holds its middle
        }

        @Override
        public TypeInformation<RowData> getProducedType() {
            return produced;
        }
    }

    private static final int BATCH = 1024;

    private static final class Rows implements BulkFormat.Reader<RowData> {
        private final ParquetFileReader file;
        private final MessageType schema;
        private final List<Integer> places = new ArrayList<>();
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        private final JsonFactory json =
                JsonFactory.builder().configure(JsonWriteFeature.WRITE_NAN_AS_STRINGS, false).build();
        private final String name;
        private RecordReader<Group> group;
        private long left;

        Rows(List<String> columns, FileSourceSplit split) throws IOException {
            name = split.path().toString();
            ParquetReadOptions options = ParquetReadOptions.builder(new PlainParquetConfiguration())
                    .withRange(split.offset(), split.offset() + split.length())
                    .build();
            file = ParquetFileReader.open(new Input(split.path()), options);
            MessageType there = file.getFileMetaData().getSchema();
            List<Type> wanted = new ArrayList<>();
            for (String column : columns) {
                if (!there.containsField(column)) {
                    throw new IOException(name + ": there is no column '" + column + "'");
                }
                wanted.add(there.getType(column));
            }
            schema = new MessageType(there.getName(), wanted);
            file.setRequestedSchema(schema);
            columns.forEach(column -> places.add(schema.getFieldIndex(column)));
        }

        @Override
        public BulkFormat.RecordIterator<RowData> readBatch() throws IOException {
            while (left == 0) {
                PageReadStore pages = file.readNextRowGroup();
                if (pages == null) {
                    return null;
                }
                left = pages.getRowCount();
                group = new ColumnIOFactory().getColumnIO(schema).getRecordReader(pages, new GroupRecordConverter(schema));
            }
            List<RowData> rows = new ArrayList<>();
            for (; left > 0 && rows.size() < BATCH; left--) {
                rows.add(GenericRowData.of((Object) payload(group.read())));
            }
            return new Batch(rows);
        }

        private byte[] payload(Group row) throws IOException {
            bytes.reset();
            try (JsonGenerator out = json.createGenerator(bytes)) {
                out.writeStartObject();
                for (int place : places) {
                    Type type = schema.getType(place);
                    out.writeFieldName(type.getName());
                    if (row.getFieldRepetitionCount(place) == 0) {
                        out.writeNull();
                    } else if (!type.isPrimitive() || type.isRepetition(Type.Repetition.REPEATED)) {
                        out.writeBoolean(true); // of a list only its presence is asked
                    } else {
                        write(out, row, place, type.asPrimitiveType());
                    }
                }
                out.writeEndObject();
            }
            return bytes.toByteArray();
        }

        private void write(JsonGenerator out, Group row, int place, PrimitiveType type) throws IOException {
            LogicalTypeAnnotation kind = type.getLogicalTypeAnnotation();
            switch (type.getPrimitiveTypeName()) {
                case BOOLEAN -> out.writeBoolean(row.getBoolean(place, 0));
                case FLOAT -> out.writeNumber((double) row.getFloat(place, 0));
                case DOUBLE -> out.writeNumber(row.getDouble(place, 0));
                case INT32 -> whole(out, row.getInteger(place, 0), 32, kind, type);
                case INT64 -> whole(out, row.getLong(place, 0), 64, kind, type);
                case INT96 -> {
                    ByteBuffer raw = row.getInt96(place, 0).toByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
                    long nanos = raw.getLong();
                    long day = raw.getInt() - 2_440_588L;
                    instant(out, Math.addExact(Math.multiplyExact(day, 86_400_000_000L), Math.floorDiv(nanos, 1000L)), type);
                }
                case BINARY, FIXED_LEN_BYTE_ARRAY -> {
                    if (kind instanceof DecimalLogicalTypeAnnotation decimal) {
                        byte[] digits = row.getBinary(place, 0).getBytes();
                        out.writeString(new BigDecimal(new BigInteger(digits), decimal.getScale()).toPlainString());
                    } else if (kind instanceof StringLogicalTypeAnnotation || kind instanceof EnumLogicalTypeAnnotation) {
                        out.writeString(row.getBinary(place, 0).toStringUsingUTF8());
                    } else {
                        throw unsaid(type);
                    }
                }
            }
        }

        private void whole(JsonGenerator out, long value, int bits, LogicalTypeAnnotation kind, PrimitiveType type) throws IOException {
            if (kind == null) {
                out.writeNumber(value);
            } else if (kind instanceof IntLogicalTypeAnnotation whole) {
                if (whole.isSigned()) {
                    out.writeNumber(value);
                } else {
                    out.writeNumber(new BigInteger(bits == 32 ? Integer.toUnsignedString((int) value) : Long.toUnsignedString(value)));
                }
            } else if (kind instanceof DecimalLogicalTypeAnnotation decimal) {
                out.writeString(BigDecimal.valueOf(value, decimal.getScale()).toPlainString());
            } else if (kind instanceof DateLogicalTypeAnnotation) {
                LocalDate date = LocalDate.ofEpochDay(value);
                if (date.getYear() < 1 || date.getYear() > 9999) {
                    throw unsaid(type);
                }
                out.writeString(date.toString());
            } else if (kind instanceof TimestampLogicalTypeAnnotation time) {
                instant(out, switch (time.getUnit()) {
                    case MILLIS -> Math.multiplyExact(value, 1000L);
                    case MICROS -> value;
                    case NANOS -> Math.floorDiv(value, 1000L);
                }, type);
            } else {
                throw unsaid(type);
            }
        }

        private void instant(JsonGenerator out, long micros, PrimitiveType type) throws IOException {
            Instant instant = Instant.EPOCH.plus(micros, ChronoUnit.MICROS);
            String text = instant.toString(); // of the years 0 to 9999 it has four digits
            if (text.length() > 30 || text.startsWith("+") || text.startsWith("-") || text.startsWith("0000")) {
                throw unsaid(type);
            }
            out.writeString(text);
        }

        private IOException unsaid(PrimitiveType type) {
            return new IOException(name + ": column '" + type.getName() + "' holds what no event can say: " + type);
        }

        @Override
        public void close() throws IOException {
            file.close();
        }
    }

    private static final class Batch implements BulkFormat.RecordIterator<RowData> {
        private final List<RowData> rows;
        private int next;

        Batch(List<RowData> rows) {
            this.rows = rows;
        }

        @Override
        public RecordAndPosition<RowData> next() {
            return next == rows.size() ? null : new RecordAndPosition<>(rows.get(next++), RecordAndPosition.NO_OFFSET, next);
        }

        @Override
        public void releaseBatch() {}
    }

    /** A file of whatever file system Flink knows, as Parquet reads files. */
    private record Input(Path path) implements InputFile {
        @Override
        public long getLength() throws IOException {
            return path.getFileSystem().getFileStatus(path).getLen();
        }

        @Override
        public SeekableInputStream newStream() throws IOException {
            FileSystem system = path.getFileSystem();
            FSDataInputStream stream = system.open(path);
            return new DelegatingSeekableInputStream(stream) {
                @Override
                public long getPos() throws IOException {
                    return stream.getPos();
                }

                @Override
                public void seek(long place) throws IOException {
                    stream.seek(place);
                }
            };
        }
    }
}
